//! The thread, given parts of a living interpreter's stacks.

use std::{
    collections::VecDeque,
    io::{PipeReader, PipeWriter, Read as _, Write as _, pipe},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{
    super::{
        code::{Interpreted, tests::guard_at},
        codes::Resolved,
        installed::installed,
        memory::Process,
        offsets::Offsets,
        speaking::Speaking,
    },
    *,
};

/// A ring of parts: `bell` is read with each record.
struct Made {
    bell: PipeReader,
    records: mpsc::Receiver<NewPart>,
    parts: VecDeque<(u64, Vec<PythonFrame>)>,
}

impl NewParts for Made {
    fn wake(&self) -> io::Result<OwnedFd> {
        self.bell.try_clone().map(OwnedFd::from)
    }

    fn next(&mut self) -> Option<NewPart> {
        let record = self.records.try_recv().ok()?;
        self.bell.read_exact(&mut [0]).unwrap();
        Some(record)
    }

    fn frames(&mut self, part: u64) -> Option<Vec<PythonFrame>> {
        let found = self.parts.iter().find(|(key, _)| *key == part)?;
        Some(found.1.clone())
    }
}

fn send(bell: &mut PipeWriter, records: &mpsc::Sender<NewPart>, record: NewPart) {
    bell.write_all(&[0]).unwrap();
    records.send(record).unwrap();
}

#[test]
fn frames_of_new_parts_are_named_by_the_thread_and_by_catching_up() {
    let Some(python) = installed().pop() else {
        return;
    };
    let living = Speaking::start(&python);
    let offsets = Offsets::of_version(python.version).unwrap();
    let memory = Process::new(living.pid());
    let frames: Vec<PythonFrame> = living
        .frames
        .iter()
        .map(|said| PythonFrame {
            code: said.code,
            position: 0,
            guard: guard_at(&memory, &offsets, said.code).unwrap(),
        })
        .collect();
    let codes = Codes::default();
    let interpreted = Interpreted {
        offsets,
        code_type: None,
    };
    codes.publish(living.pid(), 3, interpreted);
    let (bell, mut ring_bell) = pipe().unwrap();
    let (records, taken) = mpsc::channel();
    let (inner, outer) = frames.split_at(5);
    let source = Made {
        bell,
        records: taken,
        parts: [(10, inner.to_vec()), (11, outer.to_vec())].into(),
    };
    let resolver = Resolver::start(Box::new(source), codes.clone()).unwrap();
    let part = |part| NewPart {
        part,
        tgid: living.pid(),
        image: 3,
    };
    send(&mut ring_bell, &records, part(10));
    let named = |part, frame| codes.get_in_part(living.pid(), 3, part, frame);
    let deadline = Instant::now() + Duration::from_secs(30);
    while named(10, &inner[0]).is_none() {
        assert!(Instant::now() < deadline, "the thread has read nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    send(&mut ring_bell, &records, part(12));
    send(&mut ring_bell, &records, part(11));
    resolver.catch_up();
    for (index, (frame, said)) in frames.iter().zip(&living.frames).enumerate() {
        match named(10 + u64::from(index >= 5), frame) {
            Some(Resolved::Code(code)) => assert_eq!(*code.name, *said.name),
            other => panic!("{}: {other:?}", said.name),
        }
    }
    assert_eq!(codes.counts().parts_lost, 1);
}
