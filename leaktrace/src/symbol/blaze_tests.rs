//! Real objects: this test binary, C programs compiled here, a deleted file, broken files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::*;
use crate::symbol::clean;

/// The mappings of this process, as the lead's reader of `/proc/PID/maps` would make them.
fn own_mappings(objects: &mut Objects) -> Mappings {
    let mut mappings = Mappings::new();
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next().unwrap().split_once('-').unwrap();
        let executable = fields.next().unwrap().contains('x');
        let file_offset = u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
        let name = fields.nth(2).unwrap_or_default().to_owned();
        let object = name.starts_with('/').then(|| File::open(&name).ok()).flatten();
        mappings.insert(Mapping {
            start: u64::from_str_radix(start, 16).unwrap(),
            end: u64::from_str_radix(end, 16).unwrap(),
            file_offset,
            object: object.map(|file| objects.insert(Path::new(&name), file).unwrap()),
            name,
            executable,
        });
    }
    mappings
}

/// A place in this file: its own address and line, found at run time.
#[inline(never)]
fn marked_function() -> u32 {
    std::hint::black_box(line!())
}

#[test]
fn names_a_function_of_this_very_process() {
    let mut objects = Objects::new();
    let mappings = own_mappings(&mut objects);
    let address = marked_function as *const () as u64;
    let frames = Blaze::default().frames(&mappings, &objects, &[address]);
    let frame = frames[0].last().unwrap();
    let symbol = frame.symbol.as_deref().unwrap();
    assert!(symbol.ends_with("blaze::tests::marked_function"), "{symbol}");
    assert!(
        frame.file.as_deref().unwrap().ends_with("symbol/blaze_tests.rs"),
        "{frame:?}"
    );
    let line = frame.line.unwrap();
    assert!(
        (marked_function() - 3..=marked_function()).contains(&line),
        "{frame:?}"
    );
    let binary = std::env::current_exe().unwrap();
    assert_eq!(frame.object.as_deref(), binary.to_str());
    assert_eq!(frame.address, address);
    let vdso = mappings.iter().find(|mapping| mapping.name == "[vdso]").unwrap();
    let frames = Blaze::default().frames(&mappings, &objects, &[vdso.start + 8]);
    assert_eq!(frames[0][0].object.as_deref(), Some("[vdso]"));
}

const PROGRAM: &str = r"
int sink(int);
static inline __attribute__((always_inline)) int innermost(int x) {
    return sink(x + 1) * 3; /* line 4 */
}
static inline __attribute__((always_inline)) int middle(int x) {
    return innermost(x) + 5; /* line 7 */
}
__attribute__((noinline)) int outer(int x) {
    return middle(x) - 7; /* line 10 */
}
__attribute__((noinline)) int sink(int x) { return __builtin_expect(x, 1) ? x : 2; }
int main(int argc, char **argv) { (void)argv; return outer(argc); }
";

/// A compiled program and where its functions are.
struct Program {
    objects: Objects,
    id: ObjectId,
    mappings: Mappings,
    /// Address of the text section.
    base: u64,
    outer: u64,
    outer_end: u64,
}

const LOADED_AT: u64 = 0x5555_0000_0000;

fn compile(folder: &Path, flags: &[&str]) -> PathBuf {
    let (source, binary) = (folder.join("program.c"), folder.join("program"));
    fs::write(&source, PROGRAM).unwrap();
    let status = Command::new("cc")
        .args(flags)
        .arg("-o")
        .args([&binary, &source])
        .status()
        .unwrap();
    assert!(status.success());
    binary
}

impl Program {
    /// As mapped at [`LOADED_AT`] by a process: the executable segment only.
    fn load(binary: &Path) -> Self {
        let mut objects = Objects::new();
        let id = objects.insert(binary, File::open(binary).unwrap()).unwrap();
        Self::map(binary, objects, id)
    }

    /// The object of a table, with that content.
    fn map(binary: &Path, objects: Objects, id: ObjectId) -> Self {
        let bytes = fs::read(binary).unwrap();
        let elf = object::File::parse(&*bytes).unwrap();
        let text = elf.section_by_name(".text").unwrap();
        let (text_offset, text_len) = text.file_range().unwrap();
        let to_address = |virt: u64| virt - text.address() + LOADED_AT;
        let (outer, outer_end) = elf
            .symbol_by_name("outer")
            .map_or((LOADED_AT, LOADED_AT + 16), |symbol| {
                (
                    to_address(symbol.address()),
                    to_address(symbol.address() + symbol.size()),
                )
            });
        let mut mappings = Mappings::new();
        mappings.insert(Mapping {
            start: LOADED_AT,
            end: LOADED_AT + text_len,
            file_offset: text_offset,
            object: Some(id),
            name: binary.to_str().unwrap().to_owned(),
            executable: true,
        });
        Self {
            objects,
            id,
            mappings,
            base: text_offset,
            outer,
            outer_end,
        }
    }

    /// The frames of the return address of the call of `sink`: the only address in `outer` whose
    /// predecessor lies in `innermost` and which directly follows a five-byte `call`.
    fn call_in_outer(&self, blaze: &mut Blaze) -> Vec<SymbolFrame> {
        let object = self.objects.get(self.id).unwrap();
        let code = {
            let mut bytes = vec![0; (self.outer_end - self.outer) as usize];
            let offset = self.outer - LOADED_AT + self.base;
            std::os::unix::fs::FileExt::read_exact_at(&object.file, &mut bytes, offset).unwrap();
            bytes
        };
        let mut decoder = iced_x86::Decoder::with_ip(64, &code, self.outer, 0);
        let call = decoder
            .iter()
            .find(iced_x86::Instruction::is_call_near)
            .expect("outer calls sink");
        let mut frames = blaze.frames(&self.mappings, &self.objects, &[self.outer, call.next_ip()]);
        assert_eq!(frames.len(), 2);
        frames.remove(1)
    }
}

/// Symbol, file name, line, inlined.
type Shown<'a> = (Option<&'a str>, Option<&'a str>, Option<u32>, bool);

fn shown(frames: &[SymbolFrame]) -> Vec<Shown<'_>> {
    frames
        .iter()
        .map(|frame| {
            let file = frame.file.as_deref().map(|file| file.rsplit('/').next().unwrap());
            (frame.symbol.as_deref(), file, frame.line, frame.inlined)
        })
        .collect()
}

const INLINED: [Shown<'_>; 3] = [
    (Some("innermost"), Some("program.c"), Some(4), true),
    (Some("middle"), Some("program.c"), Some(7), true),
    (Some("outer"), Some("program.c"), Some(10), false),
];

#[test]
fn names_inlined_functions_with_their_own_lines() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::load(&compile(folder.path(), &["-g", "-O2", "-Wl,--build-id=sha1"]));
    let frames = program.call_in_outer(&mut Blaze::default());
    assert_eq!(shown(&frames), INLINED);
    let build_id = program.objects.get(ObjectId(0)).unwrap().build_id.clone();
    assert_eq!(build_id.as_ref().map(String::len), Some(40));
    for frame in &frames {
        assert_eq!(frame.build_id.as_deref(), build_id.as_deref());
        // The return address itself is shown, and its offset.
        assert_eq!(frame.offset, Some(frame.address - LOADED_AT + program.base));
        assert!(frame.address > program.outer && frame.address <= program.outer_end);
    }
}

#[test]
fn names_a_deleted_and_replaced_file_through_its_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile(folder.path(), &["-g", "-O2"]);
    let program = Program::load(&binary);
    fs::remove_file(&binary).unwrap();
    let mut blaze = Blaze::default();
    assert_eq!(shown(&program.call_in_outer(&mut blaze)), INLINED);
    fs::write(&binary, "something else").unwrap();
    assert_eq!(shown(&program.call_in_outer(&mut Blaze::default())), INLINED);
    assert_eq!(clean(&[0, 0, program.outer + 1], &program.mappings), (3, false));
}

#[test]
fn another_file_under_the_same_path_has_its_own_symbols() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile(folder.path(), &["-g", "-O2"]);
    let old = Program::load(&binary);
    let mut blaze = Blaze::default();
    assert_eq!(shown(&old.call_in_outer(&mut blaze)), INLINED);
    fs::rename(&binary, folder.path().join("moved")).unwrap();
    let binary = compile(folder.path(), &["-O2"]);
    let mut objects = old.objects;
    let id = objects.insert(&binary, File::open(&binary).unwrap()).unwrap();
    let new = Program::map(&binary, objects, id);
    let frames = new.call_in_outer(&mut blaze);
    assert_eq!(shown(&frames), [(Some("outer"), None, None, false)]);
}

#[test]
fn without_symbols_each_address_is_object_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::load(&compile(folder.path(), &["-O2", "-s"]));
    let addresses = [program.outer, program.outer + 4, 0x10, u64::MAX, 0];
    let frames = Blaze::default().frames(&program.mappings, &program.objects, &addresses);
    assert_eq!(frames.len(), addresses.len());
    assert!(frames.iter().all(|frames| frames.len() == 1));
    assert_eq!(frames[1][0].symbol, None);
    assert_eq!(
        frames[1][0].offset,
        Some(program.outer + 4 - LOADED_AT + program.base)
    );
    assert!(frames[1][0].object.as_deref().unwrap().ends_with("/program"));
    assert_eq!(
        (frames[2][0].address, frames[2][0].object.as_deref()),
        (0x10, None)
    );
    assert_eq!((frames[3][0].address, frames[4][0].address), (u64::MAX, 0));
}

#[test]
fn broken_objects_lose_no_frame() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile(folder.path(), &["-g", "-O2"]);
    let whole = fs::read(&binary).unwrap();
    // Cut off, and with each byte of a region inverted: headers, sections, debug information.
    let mut variants = vec![whole[..100].to_vec(), whole[..whole.len() / 2].to_vec()];
    for start in [16, 64, whole.len() / 3, whole.len() / 2, whole.len() - 900] {
        let mut bytes = whole.clone();
        bytes[start..start + 64]
            .iter_mut()
            .for_each(|byte| *byte = !*byte);
        variants.push(bytes);
    }
    for (index, bytes) in variants.iter().enumerate() {
        let path = folder.path().join(format!("broken{index}"));
        fs::write(&path, bytes).unwrap();
        let mut objects = Objects::new();
        let id = objects.insert(&path, File::open(&path).unwrap()).unwrap();
        let mut mappings = Mappings::new();
        mappings.insert(Mapping {
            start: 0x1000,
            end: 0x9000,
            file_offset: 0,
            object: Some(id),
            name: path.to_str().unwrap().to_owned(),
            executable: true,
        });
        let frames = Blaze::default().frames(&mappings, &objects, &[0x2040, 0x2100, 0x8fff]);
        assert_eq!(frames.len(), 3);
        for (frames, offset) in frames.iter().zip([0x1040, 0x1100, 0x7fff]) {
            assert!(!frames.is_empty());
            assert_eq!(frames[0].object.as_deref(), path.to_str());
            assert_eq!(frames[0].offset, Some(offset));
        }
    }
}

#[test]
fn broken_debug_information_leaves_the_elf_symbols() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile(folder.path(), &["-g", "-O2"]);
    let mut bytes = fs::read(&binary).unwrap();
    let range = {
        let elf = object::File::parse(&*bytes).unwrap();
        elf.section_by_name(".debug_abbrev")
            .unwrap()
            .file_range()
            .unwrap()
    };
    bytes[range.0 as usize..(range.0 + range.1) as usize].fill(0xff);
    fs::write(&binary, bytes).unwrap();
    let frames = Program::load(&binary).call_in_outer(&mut Blaze::default());
    assert_eq!(shown(&frames), [(Some("outer"), None, None, false)]);
}

#[test]
fn jit_symbols_name_anonymous_code() {
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("perf-1.map");
    fs::write(&map, "7000 20 jitted\n").unwrap();
    let mut mappings = Mappings::new();
    mappings.insert(Mapping {
        start: 0x7000,
        end: 0x8000,
        file_offset: 0,
        object: None,
        name: String::new(),
        executable: true,
    });
    let mut blaze = Blaze::default();
    let frames = blaze.frames(&mappings, &Objects::new(), &[0x7000]);
    assert_eq!(
        (frames[0][0].symbol.as_deref(), frames[0][0].object.as_deref()),
        (None, Some("[anon]"))
    );
    mappings.set_jit_map(Some(map));
    // 0x7020 is the address after a call that ends the function.
    let frames = blaze.frames(&mappings, &Objects::new(), &[0x7020, 0x7020]);
    assert_eq!(frames[0][0].symbol, None);
    assert_eq!(frames[1][0].symbol.as_deref(), Some("jitted"));
    assert_eq!(frames[1][0].object.as_deref(), Some("[anon]"));

    // Code in a memory file: an object, but not one with symbols of its own.
    let memory_file = folder.path().join("doublemapper");
    fs::write(&memory_file, "code").unwrap();
    let mut objects = Objects::new();
    let id = objects
        .insert(&memory_file, File::open(&memory_file).unwrap())
        .unwrap();
    mappings.insert(Mapping {
        start: 0x7000,
        end: 0x8000,
        file_offset: 0,
        object: Some(id),
        name: "/memfd:doublemapper (deleted)".to_owned(),
        executable: true,
    });
    let frames = blaze.frames(&mappings, &objects, &[0x7000]);
    assert_eq!(frames[0][0].symbol.as_deref(), Some("jitted"));
    assert_eq!(
        frames[0][0].object.as_deref(),
        Some("/memfd:doublemapper (deleted)")
    );
}

#[test]
fn each_distinct_address_is_looked_up_once() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::load(&compile(folder.path(), &["-g", "-O2"]));
    let addresses = [program.outer, program.outer + 4, program.outer + 9];
    let mut blaze = Blaze::default();
    let first = blaze.frames(&program.mappings, &program.objects, &addresses);
    assert_eq!(first[0].last().unwrap().symbol.as_deref(), Some("outer"));
    // With the file's content gone, only what was kept can answer.
    let file = File::options()
        .write(true)
        .open(folder.path().join("program"))
        .unwrap();
    file.set_len(0).unwrap();
    assert_eq!(
        blaze.frames(&program.mappings, &program.objects, &addresses),
        first
    );
    let frames = Blaze::default().frames(&program.mappings, &program.objects, &addresses);
    assert_eq!(frames[0][0].symbol, None);
}

#[test]
fn stubs_of_the_linkage_table_are_named_by_what_they_lead_to() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a.c");
    fs::write(
        &source,
        "#include <stdlib.h>\nvoid *get(void) { return malloc(7); }",
    )
    .unwrap();
    let binary = folder.path().join("liba.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-s", "-Wl,-z,lazy", "-o"]);
    assert!(compiler.args([&binary, &source]).status().unwrap().success());
    let bytes = fs::read(&binary).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let section = elf
        .section_by_name(".plt.sec")
        .or_else(|| elf.section_by_name(".plt"))
        .unwrap();
    let (offset, size_bytes) = section.file_range().unwrap();
    let mut objects = Objects::new();
    let id = objects.insert(&binary, File::open(&binary).unwrap()).unwrap();
    let mut mappings = Mappings::new();
    mappings.insert(Mapping {
        start: LOADED_AT,
        end: LOADED_AT + size_bytes,
        file_offset: offset,
        object: Some(id),
        name: binary.to_str().unwrap().to_owned(),
        executable: true,
    });
    let stack: Vec<u64> = std::iter::once(0)
        .chain((1..=size_bytes).map(|after| LOADED_AT + after))
        .collect();
    let frames = Blaze::default().frames(&mappings, &objects, &stack);
    let named = frames
        .iter()
        .filter(|frames| frames[0].symbol.as_deref() == Some("malloc@plt"));
    assert_eq!(named.count(), 16, "{frames:?}");
}

#[test]
fn a_part_put_elsewhere_is_named_as_its_function() {
    let program = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((cold, noinline)) void never(int x) { printf("%d", x); }
__attribute__((noinline)) int work(int x) {
    if (x == 12345) { never(x); puts("never"); exit(x); }
    return x + 1;
}
int main(int argc, char **argv) { (void)argv; return work(argc); }
"#;
    for flags in [&["-O2", "-g"][..], &["-O2"][..]] {
        let folder = tempfile::tempdir().unwrap();
        let (source, binary) = (folder.path().join("cold.c"), folder.path().join("cold"));
        fs::write(&source, program).unwrap();
        let mut compiler = Command::new("cc");
        compiler
            .args(flags)
            .args(["-freorder-blocks-and-partition", "-o"]);
        assert!(compiler.args([&binary, &source]).status().unwrap().success());
        let bytes = fs::read(&binary).unwrap();
        let elf = object::File::parse(&*bytes).unwrap();
        let part = elf
            .symbol_by_name("work.cold")
            .expect("the compiler splits the function");
        let whole = elf.symbol_by_name("work").unwrap();
        let outside = part.address() < whole.address() || part.address() >= whole.address() + whole.size();
        assert!(outside, "the part is within its function");
        let program = Program::load(&binary);
        let text = elf.section_by_name(".text").unwrap().address();
        let address = part.address() - text + LOADED_AT;
        let frames = Blaze::default().frames(&program.mappings, &program.objects, &[0, address + 1]);
        assert_eq!(
            frames[1].last().unwrap().symbol.as_deref(),
            Some("work"),
            "{flags:?}"
        );
    }
}

#[test]
fn one_build_id_is_looked_up_once_in_whatever_files() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile(folder.path(), &["-g", "-O2", "-Wl,--build-id=sha1"]);
    let first = Program::load(&binary);
    let copy = folder.path().join("copy");
    fs::copy(&binary, &copy).unwrap();
    let mut blaze = Blaze::default();
    assert_eq!(shown(&first.call_in_outer(&mut blaze)), INLINED);
    let mut objects = first.objects;
    let id = objects.insert(&copy, File::open(&copy).unwrap()).unwrap();
    assert_ne!(id, first.id);
    let second = Program::map(&copy, objects, id);
    blaze.worker = Worker::start(|_| Servers::none());
    let asked = |blaze: &mut Blaze| {
        let stack = [second.outer, second.outer + 4];
        blaze.ask(&second.mappings, &second.objects, &stack);
        blaze.unanswered()
    };
    assert_eq!(
        asked(&mut blaze),
        1,
        "the entry is known, the other address is not"
    );
    let frames = second.call_in_outer(&mut blaze);
    assert_eq!(shown(&frames), INLINED);
    assert!(frames[0].object.as_deref().unwrap().ends_with("/copy"));
}

#[test]
fn jitdump_names_code_and_comes_before_the_map() {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("jit-17.dump");
    let mut bytes = b"DTiJ\x01\0\0\0\x28\0\0\0".to_vec();
    bytes.resize(40, 0);
    for word in [0_u32, 61, 0, 0, 17, 17] {
        bytes.extend(word.to_le_bytes());
    }
    for number in [0x7000_u64, 0x7000, 0, 1] {
        bytes.extend(number.to_le_bytes());
    }
    bytes[40 + 16 + 8 + 16] = 0x20;
    bytes.extend(b"jit\0\0");
    fs::write(&dump, bytes).unwrap();
    let mut objects = Objects::new();
    let id = objects.insert(&dump, File::open(&dump).unwrap()).unwrap();
    let mut mappings = Mappings::new();
    let mapping = |start, object, name: &str| Mapping {
        start,
        end: start + 0x1000,
        file_offset: 0,
        object,
        name: name.to_owned(),
        executable: true,
    };
    mappings.insert(mapping(0x7000, None, ""));
    mappings.insert(mapping(0x1000, Some(id), dump.to_str().unwrap()));
    let map = folder.path().join("perf-17.map");
    fs::write(&map, "7000 20 by the map\n7100 20 only in the map\n").unwrap();
    mappings.set_jit_map(Some(map));
    let frames = Blaze::default().frames(&mappings, &objects, &[0x7000, 0x7020, 0x7101, 0x7201]);
    let names: Vec<_> = frames.iter().map(|frames| frames[0].symbol.as_deref()).collect();
    assert_eq!(names, [Some("jit"), Some("jit"), Some("only in the map"), None]);
}

#[path = "debug_file_tests.rs"]
mod debug_files;
