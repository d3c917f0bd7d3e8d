//! The switch that ends all tracing at once: a file that appears, or SIGUSR1.
//!
//! Must not know what is traced, nor what ending it takes.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};

use crate::error::Error;

/// Where the file is, unless another is named.
pub const DEFAULT: &str = "/run/leaktrace.off";

/// Between two looks. A look is one system call, and needs no directory to be there, as inotify does.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What threw the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thrown {
    /// The file is there.
    File(PathBuf),
    /// SIGUSR1 came.
    Signal,
}

impl fmt::Display for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the killswitch {} is there", path.display()),
            Self::Signal => f.write_str("SIGUSR1 was sent"),
        }
    }
}

/// Looks for the file and listens for the signal.
#[derive(Debug)]
pub struct Killswitch {
    path: PathBuf,
    looks: Interval,
    signals: Signal,
}

impl Killswitch {
    /// From now on; in a runtime. SIGUSR1 does not end the process by itself any more.
    ///
    /// # Errors
    /// When the signal cannot be watched.
    pub fn watch(path: &Path) -> io::Result<Self> {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            path: path.to_owned(),
            looks,
            signals: signal(SignalKind::user_defined1())?,
        })
    }

    /// Ends when the switch is thrown. It may be dropped before and called again.
    pub async fn thrown(&mut self) -> Thrown {
        loop {
            tokio::select! {
                _ = self.signals.recv() => return Thrown::Signal,
                _ = self.looks.tick() => if is_set(&self.path) {
                    return Thrown::File(self.path.clone());
                },
            }
        }
    }
}

/// Refuses to begin where the switch is set.
///
/// # Errors
/// [`Error::Unable`].
pub fn check(path: &Path) -> Result<(), Error> {
    if is_set(path) {
        return Err(Error::Unable(format!(
            "{} is there, which keeps leaktrace from tracing on this machine; remove it to trace",
            path.display()
        )));
    }
    Ok(())
}

/// A link that leads nowhere counts too. What cannot be looked at is not there.
fn is_set(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_refused_and_one_that_comes_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leaktrace.off");
        assert!(check(&path).is_ok());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let thrown = runtime.block_on(async {
            let mut switch = Killswitch::watch(&path).unwrap();
            std::fs::write(&path, "").unwrap();
            switch.thrown().await
        });
        assert_eq!(thrown, Thrown::File(path.clone()));
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains("leaktrace.off is there"), "{error}");
        assert!(error.ends_with("remove it to trace"), "{error}");
    }
}
