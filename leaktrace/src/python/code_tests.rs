//! Code objects in made-up memory, and all those of living interpreters.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use leaktrace_common::python::position;

use super::{
    super::{
        installed::installed,
        memory::{MemoryError, Process, fake::Fake},
        offsets::TextOffsets,
        speaking::{Said, Speaking},
        version::Version,
    },
    *,
};

pub(in super::super) const TYPE: u64 = 0x90_0000;
pub(in super::super) const AT: u64 = 0x7f00_0000_1000;

pub(in super::super) fn offsets() -> Offsets {
    Offsets::of_version(Version {
        major: 3,
        minor: 12,
        micro: 1,
    })
    .unwrap()
}

pub(in super::super) fn interpreted() -> Interpreted {
    Interpreted {
        offsets: offsets(),
        code_type: None,
    }
}

fn str_object(offsets: &TextOffsets, text: &str) -> Vec<u8> {
    let mut bytes = vec![1; offsets.ascii.into()];
    let state = 25_u32 << offsets.kind_shift;
    bytes[offsets.length.into()..][..8].copy_from_slice(&(text.len() as u64).to_le_bytes());
    bytes[offsets.state.into()..][..4].copy_from_slice(&state.to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// Puts a code object with a name at an address, and the type; the strings lie behind it.
pub(in super::super) fn put_code(memory: &Fake, address: u64, name: &str, first_line: u32) -> CodeId {
    let offsets = offsets();
    let mut head = vec![0; head_bytes(&offsets)];
    let mut set = |offset: u16, word: u64| {
        head[offset.into()..][..8].copy_from_slice(&word.to_le_bytes());
    };
    set(0, 3);
    set(offsets.types.object_type, TYPE);
    set(offsets.code.guard, u64::from(first_line) << 32 | 5);
    set(offsets.code.filename, address + 0x1000);
    set(offsets.code.qualname.unwrap(), address + 0x2000);
    set(offsets.code.line_table, address + 0x3000);
    memory.put(address, &head);
    memory.put(address + 0x1000, &str_object(&offsets.text, "file.py"));
    memory.put(address + 0x2000, &str_object(&offsets.text, name));
    let mut table = vec![0; offsets.text.bytes.into()];
    table[usize::from(offsets.text.bytes_length)] = 2;
    // Eight code units on the line after the first.
    table.extend([0x80 | 13 << 3 | 7, 2]);
    memory.put(address + 0x3000, &table);
    let mut type_object = vec![0; 64];
    type_object[24..32].copy_from_slice(&(TYPE + 0x1000).to_le_bytes());
    memory.put(TYPE, &type_object);
    memory.put(TYPE + 0x1000, b"code\0builtin\0");
    CodeId {
        address,
        guard: guard_at(memory, &offsets, address).unwrap(),
    }
}

/// The guard as the kernel side computes it.
pub(in super::super) fn guard_at(
    memory: &dyn Memory,
    offsets: &Offsets,
    address: u64,
) -> Result<u32, MemoryError> {
    let mut words = [0; GUARD_WORDS];
    for (index, word) in words.iter_mut().enumerate() {
        *word = memory.u64(address + u64::from(offsets.code.guard) + 8 * index as u64)?;
    }
    Ok(guard(words))
}

#[test]
fn a_code_object_is_read_with_its_strings_and_lines() {
    let memory = Fake::default();
    let id = put_code(&memory, AT, "C.method", 41);
    let mut interpreted = interpreted();
    let code = read(&memory, &mut interpreted, id).unwrap();
    assert_eq!(
        (&*code.name, &*code.file, code.first_line),
        ("C.method", "file.py", 41)
    );
    assert_eq!(code.line(192 + 4), Some(42));
    assert_eq!(interpreted.code_type, Some(TYPE));
}

#[test]
fn what_is_not_that_code_object_is_refused() {
    let memory = Fake::default();
    let read = |id| read(&memory, &mut interpreted(), id);
    let id = put_code(&memory, AT, "f", 41);
    let other = CodeId {
        guard: id.guard ^ 1,
        ..id
    };
    assert_eq!(read(other), Err(CodeError::Replaced));
    let nowhere = CodeId {
        address: AT + 0x10_0000,
        ..id
    };
    assert_eq!(read(nowhere), Err(CodeError::Unmapped));
    // Freed: the end of a pool's list of free blocks, and a block in it.
    for link in [0, AT + 0x30] {
        memory.put(AT, &link.to_le_bytes());
        assert_eq!(read(id), Err(CodeError::Freed), "{link:#x}");
    }
    memory.put(AT, &3_u64.to_le_bytes());
    memory.put(TYPE + 0x1000, b"cell\0");
    assert_eq!(read(id), Err(CodeError::NoCode));
    memory.put(TYPE + 0x1000, b"code\0");
    memory.unmap(AT + 0x2000);
    assert_eq!(read(id), Err(CodeError::Text(TextError::Unmapped)));
}

#[test]
fn every_code_object_of_a_living_interpreter_is_read_from_outside() {
    for python in installed() {
        let offsets = Offsets::of_version(python.version).unwrap();
        let living = Speaking::start(&python);
        let memory = Process::new(living.pid());
        let mut interpreted = Interpreted {
            offsets,
            code_type: None,
        };
        let id = |said: &Said| CodeId {
            address: said.code,
            guard: guard_at(&memory, &offsets, said.code).unwrap(),
        };
        let wanted: Vec<CodeId> = living.codes.iter().map(id).collect();
        let read = read_many(&memory, &mut interpreted, &wanted);
        assert_eq!(interpreted.code_type, Some(living.code_type));
        for (said, code) in living.codes.iter().zip(read) {
            let table = LineTable::new(Form::of(&offsets), said.first, said.table_bytes());
            let truth = Code::new(&said.name, &said.file, said.first, table);
            assert_eq!(code, Ok(truth), "{}", python.program.display());
        }
        for said in &living.frames {
            let (address, position) = living_frame(memory, &offsets, said);
            assert_eq!(address, said.code, "{}: {}", python.program.display(), said.name);
            let code = super::read(&memory, &mut interpreted, id(said)).unwrap();
            assert_eq!(
                (&*code.name, &*code.file, code.line(position)),
                (&*said.name, &*said.file, said.line),
                "{}",
                python.program.display()
            );
        }
        eprintln!(
            "{}: {} code objects, {} frames",
            python.program.display(),
            living.codes.len(),
            living.frames.len()
        );
        assert!(living.codes.len() > 1000 && living.frames.len() > 15);
    }
}

/// Code object and position of a frame by its frame object, read as the kernel side reads frames.
fn living_frame(memory: Process, offsets: &Offsets, said: &Said) -> (u64, u32) {
    // `f_frame` of PyFrameObject, from 3.11 on (pycore_frame.h): behind the head and `f_back`.
    let frame = match offsets.frame.position_kind {
        position::NUMBER => said.frame,
        _ => memory.u64(said.frame + 24).unwrap(),
    };
    let code = memory.u64(frame + u64::from(offsets.frame.code)).unwrap() & !7;
    let position_at = frame + u64::from(offsets.frame.position);
    let position = match offsets.frame.position_kind {
        position::NUMBER => memory.u32(position_at).unwrap(),
        _ => (memory.u64(position_at).unwrap() - code) as u32,
    };
    (code, position)
}

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Code objects of one shape, each in a file of its own; then others in their place, without end.
const CHURN: &str = r#"
import sys
def make(kind, number):
    scope = {}
    exec(compile(f"\ndef {kind}{number}(a, b):\n return a", f"{kind}{number}.py", "exec"), scope)
    # Without the cycle of a function and its globals it goes at once.
    return scope.pop(f"{kind}{number}").__code__
kept = [make("g", number) for number in range(300)]
print(*map(id, kept), flush=True)
sys.stdin.readline()
kept.clear()
print("cleared", flush=True)
number = 0
while True:
    kept.append(make("h", number))
    number += 1
    if len(kept) > 200:
        kept.clear()
"#;

#[test]
fn code_that_comes_and_goes_is_never_a_mixture() {
    for python in installed() {
        let offsets = Offsets::of_version(python.version).unwrap();
        let mut child = Ended(
            Command::new(&python.program)
                .args(["-c", CHURN])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut said = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let memory = Process::new(child.0.id());
        let ids: Vec<CodeId> = said
            .next()
            .unwrap()
            .unwrap()
            .split(' ')
            .map(|address| {
                let address = address.parse().unwrap();
                let guard = guard_at(&memory, &offsets, address).unwrap();
                CodeId { address, guard }
            })
            .collect();
        let mut interpreted = Interpreted {
            offsets,
            code_type: None,
        };
        let read = read_many(&memory, &mut interpreted, &ids);
        for (number, code) in read.into_iter().enumerate() {
            assert_eq!(*code.unwrap().name, *format!("g{number}"));
        }
        child.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "cleared");
        let (mut others, mut gone) = (0, 0);
        for _ in 0..300 {
            for (number, code) in read_many(&memory, &mut interpreted, &ids).into_iter().enumerate() {
                match code {
                    Ok(code) => {
                        assert_eq!(
                            *code.file,
                            *format!("{}.py", code.name),
                            "{}",
                            python.program.display()
                        );
                        // What nothing has taken the place of yet is still what it was.
                        others += u64::from(*code.name != *format!("g{number}"));
                    }
                    Err(_) => gone += 1,
                }
            }
        }
        eprintln!(
            "{}: {others} others with the same guard, {gone} gone",
            python.program.display()
        );
        // From 3.12 on the guard has a number of its own for each.
        assert!(python.version.minor < 12 || others == 0);
    }
}
