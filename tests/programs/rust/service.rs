//! A service as Rust programs are: requests parsed, stored and answered by several threads, through trait objects,
//! collections, formatting and channels. Waits for a byte at "ready" and at "done".
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, mpsc};

trait Handler: Send + Sync {
    fn handle(&self, request: &Request) -> Result<String, Box<dyn std::error::Error>>;
}

struct Request {
    path: Vec<String>,
    arguments: BTreeMap<String, String>,
}

fn parse(line: &str) -> Request {
    let (path, arguments) = line.split_once('?').unwrap_or((line, ""));
    Request {
        path: path.split('/').map(str::to_owned).collect(),
        arguments: arguments
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.repeat(3)))
            .collect(),
    }
}

#[derive(Default)]
struct Store(Mutex<HashMap<String, Vec<u8>>>);

impl Handler for Store {
    fn handle(&self, request: &Request) -> Result<String, Box<dyn std::error::Error>> {
        let size: usize = request.arguments.get("size").ok_or("no size")?.parse()?;
        let mut store = self.0.lock().map_err(|_| "poisoned")?;
        let key = request.path.join("/");
        let mut entries: Vec<_> = store.iter().map(|(key, value)| (key.clone(), value.len())).collect();
        entries.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        store.insert(key, vec![1; size % 5000]);
        let mut answer = String::new();
        for (key, size) in entries.iter().take(5) {
            writeln!(answer, "{key}: {size:>10}")?;
        }
        Ok(answer)
    }
}

fn step(name: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{name}");
    let _ = out.flush();
    let _ = std::io::stdin().lock().read(&mut [0]);
}

fn main() {
    step("ready");
    let handler: Arc<dyn Handler> = Arc::new(Store::default());
    let (answers, received) = mpsc::channel();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (handler, answers) = (Arc::clone(&handler), answers.clone());
            std::thread::spawn(move || {
                for number in 0..1000 {
                    let line = format!("/a/{worker}/{}?size={}&text=abc", number % 60, number * 7);
                    let request = parse(if number % 50 == 0 { "/a?size=no" } else { &line });
                    let answer = handler.handle(&request).unwrap_or_else(|error| error.to_string());
                    answers.send(answer).expect("somebody listens");
                }
            })
        })
        .collect();
    drop(answers);
    let bytes: usize = received.iter().map(|answer| answer.len()).sum();
    for worker in workers {
        worker.join().expect("a worker ends well");
    }
    assert!(bytes > 0);
    step("done");
}
