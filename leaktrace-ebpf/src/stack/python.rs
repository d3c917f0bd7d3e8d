//! The walk along the frames of CPython, where user space has said how its memory is laid out.
//!
//! The thread itself is stopped in its allocation, so its frames do not change. Code objects are kept by address with
//! a hash of some of their members: one may take another's place. State of the walk is kept with the thread and not on
//! the BPF stack, for the same reason as [`leaktrace_common::stack::Walk`]. Must not know names, lines or versions.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_loop, bpf_probe_read_kernel, bpf_probe_read_user,
        generated,
    },
};
use core::ffi::c_void;
use leaktrace_common::{
    counter::Counter,
    python::{
        Interpreter, NO_OFFSET, NewPart, PART_FRAMES, PYTHON_FRAME_BYTES, PYTHON_FRAMES_MAX,
        PYTHON_WINDOW_WORDS, PythonFrame, PythonThread, entry, guard, position, python_end,
    },
    record::Thread,
};

use super::{E2BIG, ENOMEM, Hash};
use crate::{
    config,
    counter::bump,
    maps::{PYTHON_INTERPRETERS, PYTHON_NEW, PYTHON_PARTS, PYTHON_THREAD_ZERO, PYTHON_THREADS},
    registers::read_word,
};

/// Value of the loop's body: go on.
const CONTINUE: i64 = 0;
/// Value of the loop's body: end the loop.
const STOP: i64 = 1;

const WINDOW_BYTES: u64 = PYTHON_WINDOW_WORDS as u64 * 8;
const FRAME_BYTES: u64 = PYTHON_FRAME_BYTES as u64;

/// Bound of the index of a part's frame, for the verifier: beyond the part there is the window.
const FRAMES_MASK: usize = 127;
const _: () = assert!(PART_FRAMES <= FRAMES_MASK);

/// What the loop's body works on.
#[repr(C)]
struct Context {
    python: *mut PythonThread,
    interpreter: *const Interpreter,
}

/// The interpreter of the thread's process image, if it has one that is known.
#[inline(always)]
pub fn interpreter<'a>(thread: &Thread) -> Option<&'a Interpreter> {
    let interpreter = PYTHON_INTERPRETERS.get_ptr(thread.layout as u32)?;
    // SAFETY: user space writes the members before this one, and sets it to 0 before it changes them. The reference is
    // to memory that it shares: a member that changes all the same leads to a read that fails or to a wrong frame.
    unsafe {
        let state = core::ptr::read_volatile(&raw const (*interpreter).state);
        (state == Interpreter::of_image(thread.process.image)).then(|| &*interpreter)
    }
}

/// Walks the thread's Python frames, if it has any, and mixes them into the hash of the stack.
#[inline(never)]
pub fn walk(thread: &mut Thread) {
    thread.stack.python = 0;
    thread.stack.python_end = python_end::NO_INTERPRETER;
    if config::thread_pointer() == 0 {
        return;
    }
    let Some(interpreter) = interpreter(thread) else {
        return;
    };
    let end = frames(thread, interpreter);
    match end {
        python_end::UNREADABLE => bump(Counter::PythonUnreadable),
        python_end::TOO_DEEP => bump(Counter::PythonTruncated),
        python_end::FULL => bump(Counter::PythonFull),
        _ => {}
    }
    thread.stack.python_end = end;
    thread.walk.hash = Hash(thread.walk.hash)
        .add(thread.stack.python)
        .add(u64::from(end))
        .0;
}

/// How the walk ended; the frames are in the thread's Python state, and their hash in its stack.
#[inline(always)]
fn frames(thread: &mut Thread, interpreter: &Interpreter) -> u16 {
    let image = u64::from(thread.process.image);
    let tid = bpf_get_current_pid_tgid() as u32;
    let known = PYTHON_THREADS.get_ptr_mut(tid);
    let first = match first_frame(interpreter, known, image) {
        Ok(0) => return python_end::NO_FRAMES,
        Ok(first) => first,
        Err(Unreadable) => return python_end::UNREADABLE,
    };
    let Some(python) = known.or_else(|| add(tid)) else {
        return python_end::FULL;
    };
    // SAFETY: only the thread itself uses its entry; see `thread::known`.
    let python = unsafe { &mut *python };
    begin(python, thread, first);
    let mut context = Context { python, interpreter };
    let body: unsafe extern "C" fn(u32, *mut Context) -> i64 = step;
    // SAFETY: the kernel calls `step` with the context given here, which outlives the call.
    unsafe {
        bpf_loop(
            PYTHON_FRAMES_MAX,
            body as *mut c_void,
            (&raw mut context).cast(),
            0,
        )
    };
    // SAFETY: as above.
    let python = unsafe { &mut *context.python };
    thread.stack.python = key(python);
    python.walk.end as u16
}

#[inline(always)]
fn begin(python: &mut PythonThread, thread: &Thread, first: u64) {
    let process = u64::from(thread.process.tgid) << 16 | u64::from(thread.process.image);
    let walk = &mut python.walk;
    let image = u64::from(thread.process.image);
    if walk.image != image {
        walk.image = image;
        walk.key = 0;
    }
    walk.frame = first;
    walk.hash = Hash::new().add(process).0;
    // What holds if the steps do not suffice.
    walk.end = u64::from(python_end::TOO_DEEP);
    // What was read before may have changed.
    walk.window_len = 0;
    python.part.inner = 0;
    python.part.len = 0;
}

/// Key of the part that ends here; never 0.
#[inline(always)]
fn key(python: &PythonThread) -> u64 {
    python.walk.hash | 1
}

#[inline(always)]
fn add(tid: u32) -> Option<*mut PythonThread> {
    let zero = PYTHON_THREAD_ZERO.get(0)?;
    PYTHON_THREADS.insert(tid, zero, u64::from(BPF_NOEXIST)).ok()?;
    PYTHON_THREADS.get_ptr_mut(tid)
}

/// A thread has ended, or what it ran.
#[inline(always)]
pub fn forget_thread(tid: u32) {
    let _absent: Result<(), i32> = PYTHON_THREADS.remove(tid);
}

/// Memory of the interpreter that should be there is not.
struct Unreadable;

/// Address of the innermost frame; 0 for none.
#[inline(always)]
fn first_frame(
    interpreter: &Interpreter,
    known: Option<*mut PythonThread>,
    image: u64,
) -> Result<u64, Unreadable> {
    let state = thread_state(interpreter, known, image)?;
    if state == 0 {
        return Ok(0);
    }
    let at = read(state + u64::from(interpreter.thread_frame))?;
    if at == 0 || interpreter.structure_frame == NO_OFFSET {
        return Ok(at);
    }
    read(at + u64::from(interpreter.structure_frame))
}

/// Address of the thread's state in the interpreter; 0 for a thread that has none.
#[inline(always)]
fn thread_state(
    interpreter: &Interpreter,
    known: Option<*mut PythonThread>,
    image: u64,
) -> Result<u64, Unreadable> {
    let key = tss_key(interpreter, known, image)?;
    if key == 0 {
        return Ok(0);
    }
    let pointer = thread_pointer();
    let mut values = pointer.wrapping_add(u64::from(interpreter.keys));
    if interpreter.keys_indirect != 0 {
        values = read(values)?;
    }
    let own = read(values.wrapping_add((key - 1).wrapping_mul(u64::from(interpreter.key_stride))))?;
    if own == 0 || interpreter.current == 0 {
        return Ok(own);
    }
    // With more than one interpreter the key has the thread's first state, and the one that holds the lock is another.
    let current = read(interpreter.current)?;
    if current != 0
        && current != own
        && read(current + u64::from(interpreter.thread_id)).unwrap_or(0) == pointer
    {
        return Ok(current);
    }
    Ok(own)
}

/// The key of the thread state plus 1; 0 while the interpreter has none.
#[inline(always)]
fn tss_key(
    interpreter: &Interpreter,
    known: Option<*mut PythonThread>,
    image: u64,
) -> Result<u64, Unreadable> {
    if let Some(python) = known {
        // SAFETY: only the thread itself uses its entry.
        let (key, of) = unsafe { ((*python).walk.key, (*python).walk.image) };
        if key != 0 && of == image {
            return Ok(key);
        }
    }
    let word = read(interpreter.key)?;
    if word as u32 == 0 {
        return Ok(0);
    }
    let key = (word >> 32) + 1;
    if let Some(python) = known {
        // SAFETY: as above.
        unsafe {
            (*python).walk.key = key;
            (*python).walk.image = image;
        }
    }
    Ok(key)
}

#[inline(always)]
fn read(address: u64) -> Result<u64, Unreadable> {
    read_word(address).ok_or(Unreadable)
}

/// The thread pointer of the current thread.
#[inline(always)]
fn thread_pointer() -> u64 {
    // SAFETY: no arguments; the helper checks the address.
    unsafe {
        let task = bpf_get_current_task();
        bpf_probe_read_kernel(task.wrapping_add(config::thread_pointer()) as *const u64).unwrap_or(0)
    }
}

/// From one frame to the one that called it.
unsafe extern "C" fn step(_index: u32, context: *mut Context) -> i64 {
    // SAFETY: what `frames` has handed to the kernel; the thread's state is that of the program, and no one else's.
    let (python, interpreter) = unsafe { (&mut *(*context).python, &*(*context).interpreter) };
    let frame = python.walk.frame;
    if !reach(python, frame, u64::from(interpreter.frames_below)) {
        return stop(python, python_end::UNREADABLE);
    }
    let word = |offset: u16| window_word(python, frame + u64::from(offset & !7));
    let byte = (word(interpreter.frame_entry) >> ((interpreter.frame_entry & 7) * 8)) & 0xff;
    let is_value = byte == u64::from(interpreter.entry_value);
    let code = word(interpreter.frame_code) & !7;
    let previous = word(interpreter.frame_previous);
    let at = word(interpreter.frame_position);
    let kept = if interpreter.entry == entry::MARK && is_value {
        PythonFrame {
            code: PythonFrame::ENTRY,
            position: 0,
            guard: 0,
        }
    } else {
        let entered = interpreter.entry == entry::ALL || (interpreter.entry == entry::FLAG && is_value);
        let Some(guard) = guard_of(code + u64::from(interpreter.code_guard)) else {
            return stop(python, python_end::UNREADABLE);
        };
        PythonFrame {
            code: code | u64::from(entered),
            position: if interpreter.position == position::NUMBER {
                (at >> ((interpreter.frame_position & 7) * 8)) as u32
            } else {
                distance(code, at)
            },
            guard,
        }
    };
    push(python, &kept);
    if previous == 0 {
        return stop(python, python_end::COMPLETE);
    }
    python.walk.frame = previous;
    CONTINUE
}

#[inline(always)]
fn stop(python: &mut PythonThread, end: u16) -> i64 {
    python.walk.end = u64::from(end);
    STOP
}

#[inline(always)]
const fn distance(code: u64, instruction: u64) -> u32 {
    let distance = instruction.wrapping_sub(code);
    if distance < PythonFrame::NO_POSITION as u64 {
        distance as u32
    } else {
        PythonFrame::NO_POSITION
    }
}

#[inline(always)]
fn guard_of(address: u64) -> Option<u32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const [u64; 4]) }
        .ok()
        .map(guard)
}

/// Has the window cover a frame. The frames of its callers are likely to lie below it.
#[inline(always)]
fn reach(python: &mut PythonThread, frame: u64, below: u64) -> bool {
    if frame & 7 != 0 {
        return false;
    }
    let offset = frame.wrapping_sub(python.walk.window_base);
    let len = python.walk.window_len;
    // A frame that begins just before the window is far beyond its end.
    if offset < len && offset + FRAME_BYTES <= len {
        return true;
    }
    if below != 0
        && fill(
            python,
            frame.wrapping_sub(WINDOW_BYTES - FRAME_BYTES),
            WINDOW_BYTES,
        )
    {
        return true;
    }
    fill(python, frame, FRAME_BYTES)
}

#[inline(always)]
fn fill(python: &mut PythonThread, address: u64, bytes: u64) -> bool {
    python.walk.window_base = address;
    // SAFETY: `bytes` is not more than the window has; the helper checks the address.
    let read = unsafe {
        generated::bpf_probe_read_user(
            (&raw mut python.window).cast(),
            bytes as u32,
            address as *const c_void,
        )
    };
    python.walk.window_len = if read == 0 { bytes } else { 0 };
    read == 0
}

/// A word that the window covers.
#[inline(always)]
fn window_word(python: &PythonThread, address: u64) -> u64 {
    let index = (address.wrapping_sub(python.walk.window_base) >> 3) as usize & (PYTHON_WINDOW_WORDS - 1);
    // SAFETY: masked to the length of the array; indexing would add a panic path.
    unsafe { *(&raw const python.window).cast::<u64>().add(index) }
}

/// Adds a frame; a part that is full is kept before.
#[inline(always)]
fn push(python: &mut PythonThread, frame: &PythonFrame) {
    if python.part.len as usize >= PART_FRAMES {
        let full = key(python);
        // Without it the frames outside of it are kept all the same: what is missing is told by the link.
        keep_part(full, python);
        python.part.inner = full;
        python.part.len = 0;
    }
    let index = python.part.len as usize & FRAMES_MASK;
    // SAFETY: the mask is the bound the verifier sees; the comparison above is stricter.
    unsafe {
        *(&raw mut python.part.frames).cast::<PythonFrame>().add(index) = *frame;
    };
    python.part.len = index as u32 + 1;
    let place = u64::from(frame.position) << 32 | u64::from(frame.guard);
    python.walk.hash = Hash(python.walk.hash).add(frame.code).add(place).0;
}

/// Keeps the frames of the last walk. Called before a stack that refers to them is kept.
#[inline(never)]
pub fn keep(thread: &mut Thread) {
    if thread.stack.python == 0 {
        return;
    }
    let tid = bpf_get_current_pid_tgid() as u32;
    let kept = PYTHON_THREADS
        .get_ptr_mut(tid)
        // SAFETY: only the thread itself uses its entry.
        .is_some_and(|python| keep_part(thread.stack.python, unsafe { &*python }));
    if !kept {
        thread.stack.python = 0;
        thread.stack.python_end = python_end::FULL;
    }
}

/// Keeps a part, if it is new, and says so to user space. Whether it is in the table.
#[inline(always)]
fn keep_part(key: u64, python: &PythonThread) -> bool {
    if PYTHON_PARTS.get_ptr(key).is_some() {
        return true;
    }
    match PYTHON_PARTS.insert(key, &python.part, u64::from(BPF_NOEXIST)) {
        Err(E2BIG | ENOMEM) => {
            bump(Counter::PythonFull);
            return false;
        }
        // Another thread was first, with the same frames.
        Ok(()) | Err(_) => {}
    }
    let new = NewPart {
        part: key,
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        image: python.walk.image as u32,
    };
    if PYTHON_NEW.output(new, 0).is_err() {
        bump(Counter::PythonUntold);
    }
    true
}
