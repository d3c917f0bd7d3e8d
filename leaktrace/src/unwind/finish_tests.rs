//! Stacks made by hand from what real files say: this program and its C library.

use std::{fs, fs::File, io::Read as _, path::Path};

use gimli::{CfaRule, EhFrame, EndianSlice, LittleEndian, UnwindContext, UnwindSection as _, X86_64};
use object::{Object as _, ObjectSection as _};
use proptest::prelude::*;

use super::*;

const SP: u64 = 0x7ffd_0000_1000;
const BIAS: u64 = 0x5555_0000_0000;

/// A file mapped at [`BIAS`], and calls in it.
struct Program {
    mappings: Mappings,
    objects: Objects,
    elf: Vec<u8>,
    entry: u64,
}

impl Program {
    fn open(path: &Path) -> Self {
        let mut elf = Vec::new();
        File::open(path).unwrap().read_to_end(&mut elf).unwrap();
        let mut objects = Objects::new();
        let id = objects.insert(path, File::open(path).unwrap()).unwrap();
        let mut mappings = Mappings::new();
        let file = object::File::parse(&*elf).unwrap();
        for section in file.sections() {
            let executable = section.kind() == object::SectionKind::Text;
            if let Some((file_offset, size)) = section.file_range().filter(|_| executable) {
                mappings.insert(Mapping {
                    start: BIAS + section.address(),
                    end: BIAS + section.address() + size,
                    file_offset,
                    object: Some(id),
                    name: path.display().to_string(),
                    executable: true,
                });
            }
        }
        let entry = file.entry();
        Self {
            mappings,
            objects,
            elf,
            entry,
        }
    }

    fn own() -> Self {
        Self::open(&std::env::current_exe().unwrap())
    }

    /// The C library of this process.
    fn libc() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.lines().find_map(|line| {
            let path = &line[line.find('/')?..];
            let name = Path::new(path).file_name()?.to_str()?;
            (name.starts_with("libc.so") || name.starts_with("ld-musl")).then(|| path.to_owned())
        });
        Self::open(Path::new(&path.unwrap()))
    }

    /// Up to `count` return addresses, each with the bytes from the stack pointer there to the CFA, in functions
    /// that keep rbp as it is.
    fn calls(&self, count: usize) -> Vec<(u64, u64)> {
        let file = object::File::parse(&*self.elf).unwrap();
        let section = file.section_by_name(".eh_frame").unwrap();
        let frames = EhFrame::from(EndianSlice::new(section.data().unwrap(), LittleEndian));
        let text = file.section_by_name(".text").unwrap().address();
        let bases = gimli::BaseAddresses::default()
            .set_eh_frame(section.address())
            .set_text(text);
        let mut calls = Vec::new();
        let mut entries = frames.entries(&bases);
        while let Some(entry) = entries.next().unwrap() {
            let gimli::CieOrFde::Fde(fde) = entry else {
                continue;
            };
            let fde = fde.parse(EhFrame::cie_from_offset).unwrap();
            let address = fde.initial_address() + fde.len() / 2;
            let mut context = UnwindContext::new();
            let Ok(row) = fde.unwind_info_for_address(&frames, &bases, &mut context, address) else {
                continue;
            };
            let keeps_rbp = row.register(X86_64::RBP).is_none();
            if let CfaRule::RegisterAndOffset {
                register: X86_64::RSP,
                offset,
            } = row.cfa()
                && keeps_rbp
                && fde.initial_address() >= text
                && !(self.entry..self.entry + START).contains(&address)
            {
                calls.push((BIAS + address + 1, *offset as u64));
            }
            if calls.len() == count {
                break;
            }
        }
        assert_eq!(calls.len(), count);
        calls
    }

    fn outermost(&self) -> u64 {
        BIAS + self.entry + 2
    }

    fn walk(&self, raw: &Raw) -> Walk {
        Finisher::new().walk(raw, &self.mappings, &self.objects, TAIL_MAX)
    }
}

const START: u64 = 64;

/// The stack of these calls, innermost first, called by `outer`; begins at the stack pointer of the first.
fn stack(calls: &[(u64, u64)], outer: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, (_, size)) in calls.iter().enumerate() {
        let caller = calls.get(index + 1).map_or(outer, |(address, _)| *address);
        bytes.resize(bytes.len() + *size as usize - 8, 0xa5);
        bytes.extend(caller.to_ne_bytes());
    }
    // Memory above the outermost frame.
    bytes.resize(bytes.len() + 64, 0);
    bytes
}

fn raw(kind: u16, address: u64, bytes: Vec<u8>) -> Raw {
    Raw {
        stack_id: 8,
        tgid: 1,
        image: 0,
        kind,
        address,
        sp: SP,
        time_ns: 0,
        bp: 0x1234_5678,
        bytes: bytes.into(),
    }
}

fn addresses(calls: &[(u64, u64)], outer: u64) -> Vec<u64> {
    calls.iter().map(|(address, _)| *address).chain([outer]).collect()
}

/// The kernel's `struct ucontext` with these registers, and what follows it.
fn context(rip: u64, rsp: u64) -> Vec<u8> {
    let mut bytes = vec![0; 968];
    for (offset, word) in [(ucontext::RIP, rip), (ucontext::RSP, rsp), (ucontext::RBP, 7)] {
        bytes[offset as usize..offset as usize + 8].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[test]
fn a_stack_is_walked_to_its_outermost_frame() {
    let program = Program::own();
    let calls = program.calls(30);
    let outer = program.outermost();
    let walk = program.walk(&raw(raw::FRAME, calls[0].0, stack(&calls, outer)));
    assert_eq!(walk.frames, addresses(&calls, outer)[1..]);
    assert_eq!(walk.end, End::Outermost);
}

#[test]
fn a_walk_that_runs_out_of_bytes_spoils_no_other() {
    let program = Program::own();
    let calls = program.calls(20);
    let outer = program.outermost();
    let bytes = stack(&calls, outer);
    let mut finisher = Finisher::new();
    for len in (0..bytes.len()).step_by(8) {
        let short = raw(raw::FRAME, calls[0].0, bytes[..len].to_vec());
        let walk = finisher.walk(&short, &program.mappings, &program.objects, TAIL_MAX);
        let whole = walk.end == End::Outermost;
        assert!(whole || walk.end == End::OutOfBytes, "{len}: {walk:?}");
        assert!(
            addresses(&calls, outer)[1..].starts_with(&walk.frames),
            "{len}: {walk:?}"
        );
        assert_eq!(whole, walk.frames.len() == calls.len(), "{len}: {walk:?}");
    }
}

#[test]
fn the_bound_of_frames_is_kept() {
    let program = Program::own();
    let calls = program.calls(20);
    let raw = raw(raw::FRAME, calls[0].0, stack(&calls, program.outermost()));
    let walk = Finisher::new().walk(&raw, &program.mappings, &program.objects, 10);
    assert_eq!((walk.frames.len(), walk.end), (10, End::TooDeep));
    assert_eq!(walk.frames, addresses(&calls, 0)[1..11]);
}

#[test]
fn an_interrupted_frame_is_gone_on_from() {
    let program = Program::own();
    let calls = program.calls(5);
    let outer = program.outermost();
    // The address of an instruction, not of a return: its own rule holds.
    let interrupted = calls[0].0 - 1;
    let walk = program.walk(&raw(raw::INTERRUPTED, interrupted, stack(&calls, outer)));
    assert_eq!(walk.end, End::Outermost);
    assert_eq!(walk.frames, addresses(&calls, outer)[1..]);
    let nothing = program.walk(&raw(raw::INTERRUPTED, interrupted, Vec::new()));
    assert_eq!((nothing.frames.len(), nothing.end), (0, End::OutOfBytes));
}

#[test]
fn a_signal_handlers_frame_is_known_by_its_code() {
    let libc = Program::libc();
    let wanted = SIGRETURN[0];
    let mapping = libc.mappings.iter().find_map(|mapping| {
        let from = mapping.file_offset as usize;
        let code = libc
            .elf
            .get(from..from + (mapping.end - mapping.start) as usize)?;
        let at = code.windows(wanted.len()).position(|bytes| bytes == wanted)?;
        Some(mapping.start + at as u64)
    });
    let restorer = mapping.unwrap();
    let calls = libc.calls(4);
    // A handler's caller is the restorer; what it has interrupted was called from nowhere.
    let handler = &calls[..1];
    let mut bytes = stack(handler, restorer);
    bytes.truncate(handler[0].1 as usize);
    let frame = SP + bytes.len() as u64;
    bytes.extend(context(calls[1].0 - 1, frame + 968));
    bytes.extend(stack(&calls[1..], 0));
    let walk = libc.walk(&raw(raw::FRAME, handler[0].0, bytes));
    assert_eq!(walk.end, End::Outermost, "{walk:?}");
    let expected = [restorer, calls[1].0 - 1, calls[2].0, calls[3].0];
    assert_eq!(walk.frames, expected);
}

#[test]
fn what_is_not_code_and_what_a_return_probe_has_put_there_ends_a_walk() {
    let mut program = Program::own();
    let calls = program.calls(3);
    let bytes = stack(&calls, 0x10_0000_0000);
    let raw = raw(raw::FRAME, calls[0].0, bytes);
    let walk = program.walk(&raw);
    assert_eq!((walk.frames.len(), walk.end), (2, End::NotCode(0x10_0000_0000)));
    program.mappings.insert(Mapping {
        start: 0x10_0000_0000 - 16,
        end: 0x10_0000_0000 + 16,
        file_offset: 0,
        object: None,
        name: "[uprobes]".to_owned(),
        executable: true,
    });
    let walk = program.walk(&raw);
    assert_eq!((walk.frames.len(), walk.end), (2, End::ReturnProbe));
}

#[test]
fn code_of_which_nothing_is_known_is_left_by_its_frame_pointer() {
    let mut program = Program::own();
    let calls = program.calls(1);
    let outer = program.outermost();
    let jit = 0x20_0000_0000;
    program.mappings.insert(Mapping {
        start: jit,
        end: jit + 0x1000,
        file_offset: 0,
        object: None,
        name: String::new(),
        executable: true,
    });
    // rbp points at the saved rbp of the made code's frame; the return address lies above it.
    let mut bytes = vec![0; 64];
    bytes.extend(7_u64.to_ne_bytes());
    bytes.extend(calls[0].0.to_ne_bytes());
    bytes.extend(stack(&calls, outer));
    let mut raw = raw(raw::FRAME, jit + 0x100, bytes);
    raw.bp = SP + 64;
    let walk = program.walk(&raw);
    assert_eq!(
        (&walk.frames[..], walk.end),
        (&[calls[0].0, outer][..], End::Outermost)
    );
    raw.bp = 0;
    let walk = program.walk(&raw);
    assert_eq!((walk.frames.len(), walk.end), (0, End::NothingKnown));
}

#[test]
fn a_file_mapped_in_the_place_of_another_is_noticed() {
    let program = Program::own();
    let libc = Program::libc();
    let mut finisher = Finisher::new();
    let mut objects = Objects::new();
    for other in [&program, &libc, &program] {
        let calls = other.calls(6);
        let mut mappings = Mappings::new();
        for mapping in other.mappings.iter() {
            let object = other.objects.get(mapping.object.unwrap()).unwrap();
            let file = object.file.try_clone().unwrap();
            let id = objects.insert(&object.path_in_process, file).unwrap();
            mappings.insert(Mapping {
                object: Some(id),
                ..mapping.clone()
            });
        }
        let raw = raw(raw::FRAME, calls[0].0, stack(&calls, 0));
        let walk = finisher.walk(&raw, &mappings, &objects, TAIL_MAX);
        assert_eq!(walk.frames, addresses(&calls, 0)[1..6]);
        assert_eq!(walk.end, End::Outermost);
    }
}

#[test]
fn the_vdso_is_read() {
    let sections = Sections::of_bytes(&vdso_image().unwrap()).unwrap();
    assert!(sections.bias(0x7fff_0000_0000, 0).is_some());
}

proptest! {
    /// Whatever lies on the stack, a walk ends.
    #[test]
    fn garbage_ends_every_walk(bytes in prop::collection::vec(any::<u8>(), 0..2048), bp in any::<u64>()) {
        thread_local! {
            static PROGRAM: (Program, Vec<(u64, u64)>) = {
                let program = Program::own();
                let calls = program.calls(1);
                (program, calls)
            };
        }
        PROGRAM.with(|(program, calls)| {
            let mut raw = raw(raw::FRAME, calls[0].0, bytes.clone());
            raw.bp = bp;
            let walk = program.walk(&raw);
            assert!(walk.frames.len() <= TAIL_MAX);
        });
    }
}
