//! `/proc` text as the kernel writes it, and the processes of this test itself.

use std::io::{Read as _, Write as _};

use super::*;

fn parse(line: &str) -> Mapping {
    parse_mapping(line.as_bytes()).unwrap()
}

#[test]
fn reads_an_ordinary_line() {
    let mapping = parse(
        "7f1c2a400000-7f1c2a426000 r-xp 00026000 fe:01 1835034                    /usr/lib/x86_64-linux-gnu/libc.so.6",
    );
    assert_eq!((mapping.start, mapping.end), (0x7f1c_2a40_0000, 0x7f1c_2a42_6000));
    assert_eq!(
        (mapping.offset, mapping.device, mapping.inode),
        (0x26000, (0xfe, 1), 1_835_034)
    );
    assert_eq!(
        mapping.path.as_deref(),
        Some(Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6"))
    );
    assert!(mapping.executable && !mapping.deleted);
}

#[test]
fn reads_odd_names() {
    let path = |name: &str| {
        let mapping = parse(&format!("1000-2000 r--p 00000000 00:1f 7 {name}"));
        (
            mapping.path.map(|path| path.to_str().unwrap().to_owned()),
            mapping.deleted,
        )
    };
    assert_eq!(path("/a b/c  d.so"), (Some("/a b/c  d.so".into()), false));
    assert_eq!(path("/tmp/lib.so (deleted)"), (Some("/tmp/lib.so".into()), true));
    assert_eq!(path("/tmp/new\\012line"), (Some("/tmp/new\nline".into()), false));
    assert_eq!(
        path("/tmp/back\\slash\\01"),
        (Some("/tmp/back\\slash\\01".into()), false)
    );
    assert_eq!(path("/memfd:jit (deleted)"), (Some("/memfd:jit".into()), true));
    assert_eq!(path("/trailing "), (Some("/trailing ".into()), false));
    for name in [
        "",
        "[heap]",
        "[stack]",
        "[vdso]",
        "[anon:arena one]",
        "anon_inode:[perf_event]",
    ] {
        assert_eq!(path(name), (None, false), "{name}");
        assert_eq!(
            parse(&format!("1000-2000 r--p 00000000 00:00 0 {name}")).label,
            name
        );
    }
}

#[test]
fn reads_the_widest_address_and_refuses_what_is_no_mapping() {
    let gate = parse("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]");
    assert_eq!(
        (gate.start, gate.inode, gate.executable),
        (0xffff_ffff_ff60_0000, 0, true)
    );
    let bare = parse("7ffc0000-7ffd0000 rw-p 00000000 00:00 0 ");
    assert!(bare.path.is_none() && !bare.executable);
    assert_eq!(parse("7ffc0000-7ffd0000 rw-p 00000000 00:00 0"), bare);
    for line in [
        "",
        "x",
        "1000-2000",
        "1000-2000 r-xp zz 00:00 0",
        "1000 r-xp 0 00:00 0",
        "1000-2000 r-xp 0 00 0",
    ] {
        assert!(parse_mapping(line.as_bytes()).is_none(), "{line}");
    }
    assert_eq!(
        parse_mapping(b"1-2 r-xp 0 00:00 5 /\xff\xfe")
            .unwrap()
            .path
            .unwrap()
            .as_os_str()
            .len(),
        3
    );
}

#[test]
fn finds_this_process() {
    let pid = std::process::id();
    let facts = facts(pid).unwrap();
    assert_eq!(facts.exe.unwrap(), std::env::current_exe().unwrap());
    assert!(facts.threads > 0 && facts.start_ticks > 0);
    assert_eq!(facts.start_ticks, start_ticks(pid).unwrap());
    assert!(rss_bytes(pid).unwrap() > 64 * 1024);
    let exe = std::env::current_exe().unwrap();
    let mappings = mappings(pid).unwrap();
    let code = mappings
        .iter()
        .find(|map| map.executable && map.path.as_deref() == Some(&exe))
        .unwrap();
    let opened = open_mapped(pid, code).unwrap();
    assert_eq!(
        opened.metadata().unwrap().ino(),
        fs::metadata(&exe).unwrap().ino()
    );
}

#[test]
fn does_not_open_a_file_that_took_the_place_of_the_mapped_one() {
    let exe = std::env::current_exe().unwrap();
    let gone = Mapping {
        label: String::new(),
        start: 0x1000,
        end: 0x2000,
        offset: 0,
        device: (0, 0),
        inode: 1,
        path: Some(exe),
        executable: true,
        deleted: false,
    };
    let error = open_mapped(std::process::id(), &gone).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("taken the place"));
}

#[test]
fn opens_the_mapped_file_after_it_was_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("a program");
    fs::copy("/bin/cat", &program).unwrap();
    let inode = fs::metadata(&program).unwrap().ino();
    // Runs until its input ends.
    let mut child = std::process::Command::new(&program)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    fs::remove_file(&program).unwrap();
    let pid = child.id();
    // `spawn` returns when the old memory is gone; the new program is mapped once it answers.
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let code = mappings(pid)
        .unwrap()
        .into_iter()
        .find(|map| map.inode == inode && map.executable)
        .unwrap();
    assert!(code.deleted);
    let path = fs::canonicalize(directory.path()).unwrap().join("a program");
    assert_eq!(code.path.as_ref(), Some(&path));
    assert_eq!(facts(pid).unwrap().exe, Some(path));
    match open_mapped(pid, &code) {
        Ok(file) => assert_eq!(file.metadata().unwrap().ino(), inode),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("NOT TESTED: opening a deleted file ({error}); needs CAP_SYS_ADMIN");
        }
        Err(error) => panic!("{error}"),
    }
    drop(child.stdin.take());
    child.wait().unwrap();
}

proptest::proptest! {
    #[test]
    fn any_line_is_read_or_refused(line: Vec<u8>) {
        let _ = parse_mapping(&line);
    }

    #[test]
    fn any_name_comes_back(name in "/[^\0\n]{0,40}", inode: u64, start: u64, executable: bool) {
        proptest::prop_assume!(!name.ends_with(" (deleted)") && !name.contains("\\012"));
        let x = if executable { 'x' } else { '-' };
        let line = format!("{start:08x}-ffffffffffffffff r-{x}p 00001000 08:10 {inode}          {name}");
        let mapping = parse_mapping(line.as_bytes()).unwrap();
        proptest::prop_assert_eq!(mapping.path, Some(PathBuf::from(name)));
        proptest::prop_assert_eq!((mapping.inode, mapping.start), (inode, start));
        proptest::prop_assert_eq!((mapping.offset, mapping.device), (0x1000, (8, 16)));
        proptest::prop_assert_eq!(mapping.executable, executable);
    }
}

#[test]
fn names_what_cannot_be_traced() {
    // Above the largest pid that a kernel hands out (PID_MAX_LIMIT, 4 194 304).
    let error = facts(4_194_305).unwrap_err();
    assert!(matches!(error, ProcessError::NoSuchProcess { pid: 4_194_305 }));
    assert!(error.to_string().contains("pgrep"));
    assert!(matches!(
        mappings(4_194_305),
        Err(ProcessError::NoSuchProcess { .. })
    ));

    let mut child = std::process::Command::new("true")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    // Ended and not waited for: a zombie, as soon as it has run its course.
    let zombie = loop {
        match facts(pid) {
            Err(error @ ProcessError::Zombie { .. }) => break error,
            Ok(_) | Err(ProcessError::Format { .. } | ProcessError::KernelThread { .. }) => {
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(zombie.to_string().contains("zombie"), "{zombie}");
    child.wait().unwrap();
}

#[test]
fn a_thread_is_told_from_its_process() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let own = fs::read_link("/proc/thread-self").unwrap();
        sender
            .send(own.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap())
            .unwrap();
        wait.recv().unwrap();
    });
    let tid = receiver.recv().unwrap();
    let error = facts(tid).unwrap_err();
    assert!(
        matches!(error, ProcessError::Thread { process, .. } if process == std::process::id()),
        "{error}"
    );
    done.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn reads_status_and_stat_text() {
    let status = |text: &str| Status {
        path: PathBuf::from("status"),
        text: text.to_owned(),
    };
    assert_eq!(status("Name:\tx\nSeccomp:\t2\n").seccomp(), Seccomp::Filter);
    assert_eq!(
        status("Seccomp:\t1\nSeccomp_filters:\t2\n").seccomp(),
        Seccomp::Strict
    );
    assert_eq!(status("Seccomp_filters:\t2\n").seccomp(), Seccomp::Off);
    assert!(status("x86_Thread_features:\twrss shstk \nx86_Thread_features_locked:\t\n").shadow_stack());
    assert!(!status("x86_Thread_features:\t\nx86_Thread_features_locked:\tshstk wrss \n").shadow_stack());
    assert!(Seccomp::Off < Seccomp::Strict && Seccomp::Strict < Seccomp::Filter);
    let fields: Vec<String> = (4..=24).map(|field| field.to_string()).collect();
    let stat = format!("42 (a) b (c)) S {}", fields.join(" "));
    assert_eq!(parse_start_ticks(stat.as_bytes()), Some(22));
    assert_eq!(parse_start_ticks(b"42 no parenthesis"), None);
}

#[test]
fn container_paths_lead_through_the_process_root() {
    assert_eq!(
        root_path(7, Path::new("/usr/lib/libc.so.6")),
        Path::new("/proc/7/root/usr/lib/libc.so.6")
    );
    assert_eq!(
        without_deleted(PathBuf::from("/bin/x (deleted)")),
        Path::new("/bin/x")
    );
}

#[test]
fn a_process_in_our_own_pid_namespace_knows_itself_by_the_same_pid() {
    assert_eq!(inner_pid(std::process::id()), Some(std::process::id()));
    // PID_MAX_LIMIT, include/linux/threads.h: no pid is as large.
    assert_eq!(inner_pid(4 << 20), None);
}
