//! Against servers of the test's own: what they send, and what they fail to.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use super::*;

/// A shared object of a few kilobytes and its build id.
fn object_file(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let (source, object) = (folder.join("a.c"), folder.join("a.so"));
    fs::write(&source, "int a(void) { return 1; }").unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-g", "-shared", "-fPIC", "-Wl,--build-id=sha1", "-o"]);
    assert!(compiler.args([&object, &source]).status().unwrap().success());
    let content = crate::symbol::content::Content::read(&File::open(&object).unwrap()).unwrap();
    (fs::read(&object).unwrap(), content.build_id.unwrap())
}

/// Answers each request by what `answer` writes for its path; the requested paths come out of the channel.
fn serve(answer: impl Fn(&mut TcpStream) + Send + 'static) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requested, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let path = first.split(' ').nth(1).unwrap().to_owned();
            if requested.send(path).is_err() {
                return;
            }
            answer(&mut stream);
        }
    });
    (url, requests)
}

/// An answer with a body, which may be shorter than it says.
fn respond(stream: &mut TcpStream, status: &str, claimed_bytes: usize, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {claimed_bytes}\r\nConnection: close\r\n\r\n");
    // A client that has seen enough may be gone.
    drop(
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body)),
    );
}

struct Client {
    servers: Servers,
    ended: mpsc::Receiver<(ObjectId, bool)>,
}

fn client(urls: &str, cache: &Path, more: &[(&str, &str)]) -> Client {
    let mut variables = HashMap::from([
        ("DEBUGINFOD_URLS", urls.to_owned()),
        ("DEBUGINFOD_CACHE_PATH", cache.to_str().unwrap().to_owned()),
    ]);
    variables.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let (told, ended) = mpsc::channel();
    let servers = Servers::from_environment(
        |name| variables.get(name).map(OsString::from),
        move |id, fetched| told.send((id, fetched)).unwrap(),
    );
    Client { servers, ended }
}

impl Client {
    /// Asks, waits for the end of the fetch, and asks again: whether the file is here.
    fn fetches(&mut self, build_id: &[u8]) -> bool {
        assert!(matches!(
            self.servers.debug_file(ObjectId(7), build_id),
            Answer::Asked
        ));
        let (id, fetched) = self.ended.recv().unwrap();
        assert_eq!(id, ObjectId(7));
        assert_eq!(self.servers.fetching(), 0);
        let here = match self.servers.debug_file(ObjectId(7), build_id) {
            Answer::Here(_) => true,
            Answer::None => false,
            Answer::Asked => panic!("asked twice in a run"),
        };
        assert_eq!(here, fetched);
        here
    }
}

/// The files in the store, without those of the runs in progress.
fn stored(cache: &Path, build_id: &[u8]) -> Vec<String> {
    let folder = cache.join(hexadecimal(build_id));
    let names = fs::read_dir(folder).map(|entries| {
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    });
    names.unwrap_or_default()
}

#[test]
fn a_file_is_fetched_once_and_kept_for_other_clients() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let (bytes, build_id) = object_file(folder.path());
    let sent = bytes.clone();
    let (absent, _requests) = serve(|stream| respond(stream, "404 Not Found", 0, b""));
    let (url, requests) = serve(move |stream| respond(stream, "200 OK", sent.len(), &sent));
    let mut first = client(&format!("{absent}/ {url}/"), &cache, &[]);
    assert!(first.fetches(&build_id));
    let id = hexadecimal(&build_id);
    assert_eq!(requests.recv().unwrap(), format!("/buildid/{id}/debuginfo"));
    // Where elfutils looks for it.
    assert_eq!(fs::read(cache.join(id).join("debuginfo")).unwrap(), bytes);
    assert_eq!(stored(&cache, &build_id), ["debuginfo"]);
    let mut second = client(&url, &cache, &[]);
    assert!(matches!(
        second.servers.debug_file(ObjectId(1), &build_id),
        Answer::Here(_)
    ));
    assert!(requests.try_recv().is_err());
}

#[test]
fn that_no_server_has_it_is_remembered_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let build_id = [0xab; 20];
    let (url, requests) = serve(|stream| respond(stream, "404 Not Found", 0, b""));
    assert!(!client(&url, folder.path(), &[]).fetches(&build_id));
    assert_eq!(stored(folder.path(), &build_id), ["debuginfo"]);
    let mut second = client(&url, folder.path(), &[]);
    assert!(matches!(
        second.servers.debug_file(ObjectId(1), &build_id),
        Answer::None
    ));
    assert_eq!(requests.iter().take(1).count(), 1);
    assert!(requests.try_recv().is_err());
    // As elfutils has it: no second is too short.
    fs::write(folder.path().join("cache_miss_s"), "0\n").unwrap();
    assert!(!client(&url, folder.path(), &[]).fetches(&build_id));
}

#[test]
fn what_is_not_the_whole_file_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let (bytes, build_id) = object_file(folder.path());
    let other = [0x11; 20];
    let length = bytes.len();
    let sent = bytes.clone();
    let (whole, _requests) = serve(move |stream| respond(stream, "200 OK", sent.len(), &sent));
    let (cut, _requests) = serve(move |stream| respond(stream, "200 OK", length, &bytes[..length / 2]));
    let (text, _requests) = serve(|stream| respond(stream, "200 OK", 5, b"hello"));
    let (failing, _requests) = serve(|stream| respond(stream, "500 Internal Server Error", 0, b""));
    let refused = "http://127.0.0.1:1";
    let small = [("DEBUGINFOD_MAXSIZE", "1000")];
    for (what, url, id, limits) in [
        ("cut off", cut.as_str(), &build_id[..], &[][..]),
        ("of another build id", &whole, &other, &[]),
        ("no ELF file", &text, &build_id, &[]),
        ("an error", &failing, &build_id, &[]),
        ("no server", refused, &build_id, &[]),
        ("too large", &whole, &build_id, &small),
    ] {
        assert!(!client(url, &cache, limits).fetches(id), "{what}");
        // Not remembered either: the server may do better the next time.
        assert_eq!(stored(&cache, id), [""; 0], "{what}");
    }
    assert!(client(&format!("{cut} {whole}"), &cache, &[]).fetches(&build_id));
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (_bytes, build_id) = object_file(folder.path());
    let (held, _still_open) = mpsc::channel();
    let (url, _requests) = serve(move |stream| held.send(stream.try_clone().unwrap()).unwrap());
    let mut slow = client(&url, folder.path(), &[("DEBUGINFOD_TIMEOUT", "1")]);
    // Nobody waits for it: the question is answered at once.
    assert!(!slow.fetches(&build_id));
}

#[test]
fn without_servers_nothing_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    for urls in ["", "  "] {
        let mut none = client(urls, folder.path(), &[]);
        assert!(matches!(
            none.servers.debug_file(ObjectId(0), &[1; 20]),
            Answer::None
        ));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_folder_is_the_one_that_elfutils_takes() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_str().unwrap().to_owned();
    let folder = |variables: &[(&str, &str)]| {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        let store = Store::from_environment(|name| variables.get(name).map(OsString::from)).unwrap();
        format!("{store:?}")
    };
    let home_only = [("HOME", path.as_str())];
    assert!(folder(&home_only).contains(&format!("{path}/.cache/debuginfod_client")));
    let with_cache = [("HOME", path.as_str()), ("XDG_CACHE_HOME", "/c")];
    assert!(folder(&with_cache).contains("\"/c/debuginfod_client\""));
    let named = [("DEBUGINFOD_CACHE_PATH", "/named"), ("HOME", path.as_str())];
    assert!(folder(&named).contains("\"/named\""));
    fs::create_dir(home.path().join(".debuginfod_client_cache")).unwrap();
    assert!(folder(&with_cache).contains(".debuginfod_client_cache"));
}
