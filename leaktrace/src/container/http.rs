//! One question to a daemon over a unix socket: `GET`, with an end to waiting.
//!
//! It speaks HTTP/1.0, to which nobody answers in chunks, so that [`httparse`] is all that is needed. Must not know what is
//! asked.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// An answer that is larger is not read: a daemon says some 2 KiB of a container.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Headers that are looked at.
const HEADERS_MAX: usize = 64;

/// Asks for `target` and returns the body of the answer. It takes no longer than `limit`.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] after `limit`; [`io::ErrorKind::NotFound`] for status 404 and for a socket that is not
/// there; [`io::ErrorKind::InvalidData`] for another status than 200 and for what is no HTTP.
pub(super) fn get(socket: &Path, target: &str, limit: Duration) -> io::Result<Vec<u8>> {
    let until = Instant::now() + limit;
    let mut stream = connect(socket, limit)?;
    let request = format!("GET {target} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: leaktrace\r\n\r\n");
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(request.as_bytes()).map_err(as_timeout)?;
    let answer = read(&mut stream, until)?;
    body(&answer)
}

/// A daemon whose backlog is full makes `connect` wait for as long as the limit of sending (`unix_stream_connect` in
/// `net/unix/af_unix.c`, 6.12), which std cannot set before.
fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&SockAddr::unix(path)?).map_err(as_timeout)?;
    Ok(UnixStream::from(OwnedFd::from(socket)))
}

/// Reads to the end, or as far as the answer says that it goes.
fn read(stream: &mut UnixStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut part = vec![0; 64 << 10];
    let mut whole_bytes = None;
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        let count = match stream.read(&mut part) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(as_timeout(error)),
        };
        answer.extend_from_slice(&part[..count]);
        if whole_bytes.is_none() {
            whole_bytes = Head::read(&answer)?.and_then(|head| head.starts_at.checked_add(head.body_bytes?));
        }
        if count == 0 || whole_bytes.is_some_and(|bytes| answer.len() >= bytes) {
            return Ok(answer);
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(invalid("the answer is too long"));
        }
    }
}

/// What is said before the body.
struct Head {
    status: u16,
    /// Length of the head.
    starts_at: usize,
    body_bytes: Option<usize>,
    is_chunked: bool,
}

impl Head {
    /// None as long as it is not complete.
    fn read(answer: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response
            .parse(answer)
            .map_err(|error| invalid(&error.to_string()))?;
        let httparse::Status::Complete(starts_at) = parsed else {
            return Ok(None);
        };
        let header = |name: &str| {
            let header = response
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name));
            header.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        Ok(Some(Self {
            status: response.code.unwrap_or_default(),
            starts_at,
            body_bytes: header("content-length").and_then(|value| value.trim().parse().ok()),
            is_chunked: header("transfer-encoding").is_some(),
        }))
    }
}

fn body(answer: &[u8]) -> io::Result<Vec<u8>> {
    let head = Head::read(answer)?.ok_or_else(|| invalid("the answer ends in its head"))?;
    let body = &answer[head.starts_at..];
    let is_cut = head.body_bytes.is_some_and(|bytes| body.len() < bytes);
    match head.status {
        _ if is_cut => Err(invalid("the answer is cut")),
        200 if head.is_chunked => Err(invalid("the answer comes in chunks")),
        200 => Ok(body[..head.body_bytes.unwrap_or(body.len())].to_vec()),
        404 => Err(io::ErrorKind::NotFound.into()),
        status => Err(invalid(&format!("status {status}"))),
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

/// A socket's own limit shows as "would block".
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::ErrorKind::TimedOut.into()
    } else {
        error
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    /// What `get` makes of these bytes; the daemon closes behind them unless `stays`.
    fn answered(bytes: &'static [u8], stays: bool, limit: Duration) -> io::Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            let count = stream.read(&mut asked).unwrap();
            assert!(asked[..count].starts_with(b"GET /x HTTP/1.0\r\n"));
            // Nobody may be waiting for it any more.
            let _written = stream.write_all(bytes);
            stays.then_some(stream)
        });
        let got = get(&path, "/x", limit);
        daemon.join().unwrap();
        got
    }

    #[test]
    fn the_body_is_returned_to_its_length_or_to_the_end() {
        let got = answered(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nto the end", false, LIMIT);
        assert_eq!(got.unwrap(), b"to the end");
        let got = answered(b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 4\r\n\r\nfour", true, LIMIT);
        assert_eq!(got.unwrap(), b"four");
    }

    #[test]
    fn other_answers_are_errors() {
        let kind = |bytes| answered(bytes, false, LIMIT).unwrap_err().kind();
        assert_eq!(kind(b"HTTP/1.0 404 Not Found\r\n\r\n"), io::ErrorKind::NotFound);
        for bytes in [
            b"HTTP/1.0 500 Oops\r\n\r\n" as &[u8],
            b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\ncut",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n",
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"",
        ] {
            assert_eq!(kind(bytes), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[test]
    fn a_daemon_that_says_nothing_is_not_waited_for() {
        let got = answered(b"HTTP/1.0 200 OK\r\n", true, Duration::from_millis(5));
        assert_eq!(got.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_socket_that_is_full_or_missing_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(
            get(&path, "/x", LIMIT).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        // A backlog of none takes one connection all the same.
        let _first = UnixStream::connect(&path).unwrap();
        let got = get(&path, "/x", Duration::from_millis(5));
        assert_eq!(got.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
