//! What a site is called in a sentence.
//!
//! Must not know how the sentence goes.

use std::collections::BTreeMap;

use super::{
    frames::{base_name, elide, innermost_user, is_python, name},
    model::{Frame, Survivor},
};

/// Columns of a name in a sentence.
const SHORT_COLUMNS: usize = 48;

/// What a site is called in a sentence: the function where a person starts to read, without its arguments; of Python also
/// the line.
fn short_name(survivor: &Survivor) -> String {
    let frames = survivor.frames.as_slice();
    let Some(frame) = innermost_user(frames)
        .and_then(|index| frames.get(index))
        .or_else(|| frames.last())
    else {
        return survivor.call.clone();
    };
    if let (true, Some(file), Some(line)) = (is_python(frame), &frame.file, frame.line) {
        let place = format!("{}:{line}", base_name(file));
        return match &frame.symbol {
            Some(symbol) if !symbol.starts_with('<') => elide(&format!("{symbol} ({place})"), SHORT_COLUMNS),
            _ => place,
        };
    }
    elide(&without_arguments(&name(frame)), SHORT_COLUMNS)
}

/// The same of all sites of a report; of those that would be called the same the lines as well, and where that does not
/// tell them apart, the function where the ways to them part.
pub(crate) fn short_names(survivors: &[Survivor]) -> Vec<String> {
    let mut names: Vec<String> = survivors.iter().map(short_name).collect();
    for alike in alike(&names) {
        for &index in &alike {
            let frame = user_frame(&survivors[index]);
            if let Some((file, line)) = frame.and_then(|frame| Some((frame.file.as_ref()?, frame.line?)))
                && !names[index].contains(&format!(":{line}"))
            {
                names[index] = format!("{} ({}:{line})", names[index], base_name(file));
            }
        }
    }
    for alike in alike(&names) {
        let outwards: Vec<&[Frame]> = alike.iter().map(|&index| outwards(&survivors[index])).collect();
        let depth = parting(&outwards);
        for (&index, frames) in alike.iter().zip(&outwards) {
            if let Some(caller) = frames.get(depth) {
                let caller = elide(&without_arguments(&name(caller)), SHORT_COLUMNS);
                names[index] = format!("{} from {caller}", names[index]);
            }
        }
    }
    names
}

/// The indices of names that there are several of, for each of these.
fn alike(names: &[String]) -> Vec<Vec<usize>> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        by_name.entry(name).or_default().push(index);
    }
    by_name.into_values().filter(|alike| alike.len() > 1).collect()
}

/// The frame where a person starts to read.
fn user_frame(survivor: &Survivor) -> Option<&Frame> {
    survivor.frames.get(innermost_user(&survivor.frames)?)
}

/// What that was called from, the next caller first.
fn outwards(survivor: &Survivor) -> &[Frame] {
    let callers = innermost_user(&survivor.frames).and_then(|index| survivor.frames.get(index + 1..));
    callers.unwrap_or_default()
}

/// The first of these callers that is not the same of all; the length of the shortest where there is none.
fn parting(outwards: &[&[Frame]]) -> usize {
    let Some((first, others)) = outwards.split_first() else {
        return 0;
    };
    let is_same = |depth: usize| {
        let of_first = name(&first[depth]);
        others
            .iter()
            .all(|frames| frames.get(depth).is_some_and(|frame| name(frame) == of_first))
    };
    (0..first.len())
        .find(|&depth| !is_same(depth))
        .unwrap_or(first.len())
}

/// A function of C++ without its arguments; other languages do not name them.
fn without_arguments(name: &str) -> String {
    let name = name.replace("(anonymous namespace)", "{anonymous}");
    let from = name.find("operator()").map_or(0, |at| at + "operator()".len());
    let has_arguments = name.ends_with(')') || name.ends_with(" const");
    match name[from..].find('(') {
        Some(at) if has_arguments && from + at > 0 => name[..from + at].to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Lang;

    fn frame(symbol: Option<&str>, object: Option<&str>) -> Frame {
        Frame {
            symbol: symbol.map(str::to_owned),
            object: object.map(str::to_owned),
            ..Frame::default()
        }
    }

    #[test]
    fn in_a_sentence_a_function_has_no_arguments() {
        for (name, short) in [
            ("main", "main"),
            ("load(std::vector<int>, (anonymous namespace)::T)", "load"),
            ("(anonymous namespace)::load(int)", "{anonymous}::load"),
            ("A::operator()(int) const", "A::operator()"),
            ("A::operator()() const", "A::operator()"),
            (
                "<(A, B) as core::ops::Fn>::call",
                "<(A, B) as core::ops::Fn>::call",
            ),
            ("libx.so.1+0x12", "libx.so.1+0x12"),
        ] {
            assert_eq!(without_arguments(name), short);
        }
    }

    #[test]
    fn in_a_sentence_a_line_of_python_is_enough() {
        let mut survivor = crate::report::sample::report().survivors.remove(0);
        let python = |symbol: &str| Frame {
            lang: Lang::Python,
            symbol: Some(symbol.to_owned()),
            file: Some("/srv/app/views.py".to_owned()),
            line: Some(12),
            ..Frame::default()
        };
        for (symbol, short) in [
            ("<listcomp>", "views.py:12"),
            ("View.get", "View.get (views.py:12)"),
        ] {
            survivor.frames = vec![frame(Some("malloc"), None), python(symbol)];
            assert_eq!(short_name(&survivor), short);
        }
        survivor.frames.clear();
        assert_eq!(short_name(&survivor), survivor.call);
    }

    #[test]
    fn sites_of_one_function_are_told_apart_by_their_lines() {
        let at = |symbol: &str, line: Option<u32>| {
            let mut survivor = crate::report::sample::report().survivors.remove(0);
            survivor.frames = vec![Frame {
                file: line.map(|_| "/src/pool.c".to_owned()),
                line,
                ..frame(Some(symbol), Some("/bin/x"))
            }];
            survivor
        };
        let survivors = [
            at("fill", Some(7)),
            at("load", Some(9)),
            at("fill", Some(8)),
            at("fill", None),
        ];
        assert_eq!(
            short_names(&survivors),
            ["fill (pool.c:7)", "load", "fill (pool.c:8)", "fill"]
        );
    }

    #[test]
    fn sites_behind_one_wrapper_are_told_apart_by_where_the_ways_part() {
        let from = |callers: &[&str]| {
            let mut survivor = crate::report::sample::report().survivors.remove(0);
            let frames = ["checked_alloc"].iter().chain(callers);
            survivor.frames = frames.map(|symbol| frame(Some(symbol), Some("/bin/x"))).collect();
            survivor
        };
        let survivors = [
            from(&["grow", "read_header(int)", "main"]),
            from(&["grow", "read_cookie(int)", "main"]),
            from(&["grow"]),
        ];
        assert_eq!(
            short_names(&survivors),
            [
                "checked_alloc from read_header",
                "checked_alloc from read_cookie",
                "checked_alloc"
            ]
        );
        // What is the same in all its names stays so.
        let twice = [from(&["main"]), from(&["main"])];
        assert_eq!(short_names(&twice), ["checked_alloc", "checked_alloc"]);
    }
}
