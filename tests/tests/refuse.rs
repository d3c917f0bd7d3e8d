//! What leaktrace refuses: one clear line that ends with the way out, exit code 2, the target unharmed.
//!
//! Not tested, because it cannot be brought about here: a process id that is reused between the look at
//! it and the attach, kernels without uprobes, seccomp on kernels 6.11 to 6.13, shadow stacks.

use std::{os::unix::fs::PermissionsExt as _, process::Command};

use leaktrace_tests::{
    fixtures::{self, Fixture},
    leaktrace::{self, Leaktrace, require_tracing},
    skip::{program, skip, unless_missing},
    target::Target,
};

/// A process id that no process has.
fn no_such_pid() -> String {
    let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("/proc is mounted");
    (limit.trim().parse::<u32>().expect("a number") - 1).to_string()
}

fn attach(pid: u32) -> leaktrace::Finished {
    require_tracing();
    Leaktrace::attach(&[pid]).run()
}

#[test]
fn a_go_program() {
    let Some(go) = unless_missing(Fixture::go().build()) else {
        return;
    };
    let mut target = Target::program(&go, &[]);
    target.ready();
    attach(target.pid()).refused(&["Go"]);
    target.finish_with(0);
}

#[test]
fn a_go_program_started_as_a_command() {
    let Some(go) = unless_missing(Fixture::go().build()) else {
        return;
    };
    require_tracing();
    Leaktrace::command(&go, &[]).run().refused(&["Go"]);
}

#[test]
fn a_32_bit_program() {
    let fixture = Fixture::freestanding("thirty_two_bit").flags(&["-m32", "-Wno-pointer-to-int-cast"]);
    let program = fixture.build().expect("gcc is there");
    if Command::new(&program)
        .stdin(std::process::Stdio::null())
        .output()
        .is_err()
    {
        skip("this kernel does not run 32-bit programs (CONFIG_IA32_EMULATION)");
        return;
    }
    let mut target = Target::program(&program, &[]);
    target.ready();
    attach(target.pid()).refused(&["32-bit"]);
    target.finish_with(0);
}

#[test]
fn a_program_without_an_allocator() {
    let program = Fixture::freestanding("no_allocator")
        .build()
        .expect("gcc is there");
    let mut target = Target::program(&program, &[]);
    target.ready();
    attach(target.pid()).refused(&["allocator"]);
    target.finish_with(0);
}

#[test]
fn a_pid_that_is_not_there() {
    require_tracing();
    let pid = no_such_pid();
    Leaktrace::bare(&["-p", &pid]).run().refused(&[&pid]);
}

#[test]
fn one_missing_pid_of_two() {
    let mut target = Target::c("pairs", &["1000"]);
    target.ready();
    require_tracing();
    let missing = no_such_pid();
    let both = format!("{},{missing}", target.pid());
    Leaktrace::bare(&["-p", &both]).run().refused(&[&missing]);
    target.finish_with_truth(0);
}

#[test]
fn a_zombie() {
    let mut target = Target::c("brief", &[]);
    target.truth();
    // Nobody has waited for it: it stays in /proc without an executable.
    let status = format!("/proc/{}/stat", target.pid());
    leaktrace_tests::wait::until("the zombie", || {
        std::fs::read_to_string(&status)
            .ok()
            .filter(|stat| stat.contains(") Z "))
    });
    attach(target.pid()).refused(&[&target.pid().to_string()]);
}

#[test]
fn a_kernel_thread() {
    if !std::path::Path::new("/proc/2/comm").exists() {
        skip("no kernel threads in this pid namespace");
        return;
    }
    attach(2).refused(&["2"]);
}

#[test]
fn itself() {
    require_tracing();
    let Some(shell) = unless_missing(program("sh", "dash")) else {
        return;
    };
    let script = format!("exec {} -p $$", leaktrace::binary().display());
    let output = Command::new(shell)
        .args(["-c", &script])
        .output()
        .expect("the shell starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("leaktrace: "), "{stderr}");
}

#[test]
fn a_user_without_permission() {
    let mut target = Target::c("pairs", &["1000"]);
    target.ready();
    let Some(setpriv) = unless_missing(program("setpriv", "util-linux")) else {
        return;
    };
    // Where the binary lies may be closed to other users.
    let folder = tempfile::TempDir::new_in("/tmp").expect("a temporary folder can be made");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open.clone()).expect("its mode can be set");
    let copy = folder.path().join("leaktrace");
    fixtures::copy(&leaktrace::binary(), &copy);
    std::fs::set_permissions(&copy, open).expect("its mode can be set");
    for arguments in [
        vec!["-p".to_owned(), target.pid().to_string()],
        vec!["--".to_owned(), "true".to_owned()],
    ] {
        let mut command = Command::new(&setpriv);
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(&arguments);
        let output = command.output().expect("setpriv starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("leaktrace: "), "{stderr}");
        assert!(
            stderr.contains("root") || stderr.contains("sudo") || stderr.contains("CAP_"),
            "{stderr}"
        );
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
    // The doctor says the same to such a user, by its exit code too.
    let mut doctor = Command::new(&setpriv);
    doctor
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .arg("doctor");
    assert_eq!(doctor.output().expect("setpriv starts").status.code(), Some(2));
    target.finish_with_truth(0);
}

#[test]
fn a_command_that_is_not_there() {
    require_tracing();
    Leaktrace::bare(&["--", "/nonexistent/program"])
        .run()
        .refused(&["/nonexistent/program"]);
}

#[test]
fn a_command_that_is_not_executable() {
    require_tracing();
    Leaktrace::bare(&["--", "/etc/passwd"])
        .run()
        .refused(&["/etc/passwd"]);
}

#[test]
fn a_custom_function_that_the_object_does_not_have() {
    let program = fixtures::c("pool_shapes");
    let mut target = Target::program(&program, &[]);
    target.ready();
    require_tracing();
    let object = program.to_str().expect("a plain path");
    let pair = [
        "--alloc",
        "pool_gone(size=arg1)->ret",
        "--free",
        "pool_put(ptr=arg0)",
        "--object",
        object,
    ];
    Leaktrace::attach(&[target.pid()])
        .args(&pair)
        .run()
        .refused(&["pool_gone"]);
    target.finish_with_truth(0);
}
