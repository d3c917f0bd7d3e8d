use std::time::Duration;

use super::*;
use crate::python::census::TypeCount;

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn taken(image: Image, now_ns: u64, types: &[(&str, u64)]) -> Taken {
    let count = |&(name, tracked): &(&str, u64)| TypeCount {
        name: TypeName {
            module: None,
            name: name.into(),
        },
        tracked,
        tracked_bytes: tracked * 10,
        others: 0,
        other_bytes: 0,
    };
    Taken {
        image,
        now_ns,
        counts: Ok(Counts {
            types: types.iter().map(count).collect(),
            spent: Duration::from_millis(10),
            torn_reads: 1,
            ..Counts::default()
        }),
    }
}

fn partial(image: Image, now_ns: u64, why: Why) -> Taken {
    Taken {
        image,
        now_ns,
        counts: Ok(Counts {
            partial: Some(why),
            spent: Duration::from_millis(250),
            ..Counts::default()
        }),
    }
}

/// Asks and answers.
fn count(book: &mut Book, image: Image, now_ns: u64, types: &[(&str, u64)]) {
    assert!(book.due(image, now_ns, Occasion::LastReport).is_some());
    book.asked(image);
    book.note(taken(image, now_ns, types), true);
}

fn types(book: &Book, now_ns: u64) -> Types {
    book.types(Sort::Bytes, 9, now_ns).unwrap()
}

#[test]
fn a_process_is_counted_at_once_and_then_ever_more_seldom() {
    let mut book = Book::default();
    let image = running(7, 0);
    let due = |book: &mut Book, at_ns, occasion| book.due(image, at_ns, occasion).is_some();
    assert!(due(&mut book, 0, Occasion::Meanwhile));
    book.asked(image);
    assert!(!due(&mut book, S, Occasion::Report), "one is under way");
    assert!(
        due(&mut book, S, Occasion::LastReport),
        "which may be of too early"
    );
    book.note(taken(image, S, &[("a", 1)]), true);
    // 10 ms are 2 % of 500 ms.
    assert!(!due(&mut book, S + 499 * MS, Occasion::Report));
    assert!(due(&mut book, S + 500 * MS, Occasion::Report));
    assert!(due(&mut book, S + 500 * MS, Occasion::Meanwhile));
    count(&mut book, image, 100 * S, &[("a", 1)]);
    assert!(due(&mut book, 101 * S, Occasion::Report));
    assert!(!due(&mut book, 104 * S, Occasion::Meanwhile));
    assert!(due(&mut book, 105 * S, Occasion::Meanwhile));
    assert_eq!(book.under_way, 0);
}

#[test]
fn what_it_took_and_what_was_torn_is_summed_up() {
    let mut book = Book::default();
    assert_eq!(book.types(Sort::Bytes, 9, 0), None);
    for (pid, objects) in [(1, 4), (2, 6), (1, 9)] {
        count(&mut book, running(pid, 0), S, &[("a", objects)]);
    }
    let types = types(&book, 3 * S);
    assert_eq!(
        (types.censuses, types.torn_reads, types.objects, types.bytes),
        (3, 3, 15, 150)
    );
    assert!((types.spent_s - 0.03).abs() < 1e-9, "{}", types.spent_s);
    let first = &types.list[0];
    assert_eq!(
        (first.pid, first.grown_objects, first.state),
        (1, 5, State::Running)
    );
    assert!((first.age_s - 2.0).abs() < 1e-9, "{}", first.age_s);
}

#[test]
fn an_unfinished_census_leaves_what_was_known_and_says_why() {
    let mut book = Book::default();
    let image = running(7, 0);
    let due = |book: &mut Book, at_ns| book.due(image, at_ns, Occasion::Report);
    let first = due(&mut book, 0).unwrap();
    book.asked(image);
    book.note(partial(image, S, Why::Time), true);
    let unfinished = types(&book, S);
    assert_eq!((unfinished.censuses, unfinished.partial), (0, 1));
    let why = "process 7: the census was not finished in its time";
    assert_eq!(unfinished.why.as_deref(), Some(why));
    let next = due(&mut book, 60 * S).unwrap();
    assert!(next.time > first.time, "it has more time");
    count(&mut book, image, 61 * S, &[("a", 3)]);
    assert_eq!(
        (types(&book, 61 * S).partial, types(&book, 61 * S).why),
        (0, None)
    );
    book.asked(image);
    book.note(partial(image, 99 * S, Why::Torn), true);
    let kept = types(&book, 99 * S);
    assert_eq!((kept.partial, kept.objects), (1, 3));
}

#[test]
fn what_has_exited_keeps_its_counts_and_what_was_replaced_does_not() {
    let mut book = Book::default();
    let (exited, replaced) = (running(1, 0), running(2, 0));
    count(&mut book, exited, S, &[("a", 3)]);
    count(&mut book, replaced, S, &[("a", 5)]);
    book.end(replaced, State::Replaced);
    book.asked(exited);
    book.end(exited, State::Exited);
    // It was torn by the end.
    book.note(partial(exited, 2 * S, Why::Torn), true);
    let types = types(&book, 9 * S);
    assert_eq!((types.objects, types.partial, types.why), (3, 0, None));
    let row = &types.list[0];
    assert_eq!((row.state, row.objects), (State::Exited, 3));
    assert!((row.age_s - 8.0).abs() < 1e-9, "{}", row.age_s);
}

#[test]
fn a_census_that_another_program_has_come_into_counts_for_nothing() {
    let mut book = Book::default();
    let image = running(1, 0);
    assert!(book.due(image, 0, Occasion::Meanwhile).is_some());
    book.asked(image);
    book.end(image, State::Replaced);
    book.note(taken(image, S, &[("a", 3)]), false);
    assert_eq!(book.types(Sort::Bytes, 9, S), None);
    assert_eq!(book.under_way, 0);
}

#[test]
fn a_number_that_comes_back_begins_anew() {
    let mut book = Book::default();
    let image = running(1, 0);
    count(&mut book, image, S, &[("a", 3)]);
    book.end(image, State::Exited);
    count(&mut book, image, 5 * S, &[("a", 8)]);
    let types = types(&book, 5 * S);
    assert_eq!((types.censuses, types.list[0].grown_objects), (1, 0));
}

#[test]
fn the_counts_of_many_that_have_ended_are_not_kept() {
    let mut book = Book::default();
    for pid in 0..ENDED_MAX as u32 + 5 {
        count(&mut book, running(pid, 0), S, &[("a", 1)]);
        book.end(running(pid, 0), State::Exited);
    }
    assert_eq!(types(&book, S).objects, ENDED_MAX as u64);
    assert!(!book.images.contains_key(&running(4, 0)));
    assert!(book.images.contains_key(&running(5, 0)));
}

#[test]
fn all_types_are_listed_with_the_whole_census() {
    for (whole, listed) in [(false, 1), (true, 3)] {
        let mut book = Book::new(whole);
        let image = running(1, 0);
        assert_eq!(
            book.due(image, 0, Occasion::Meanwhile).map(|limits| limits.pools),
            Some(whole)
        );
        count(&mut book, image, S, &[("a", 1), ("b", 2), ("c", 3)]);
        let types = book.types(Sort::Bytes, 1, S).unwrap();
        assert_eq!((types.list.len(), types.omitted), (listed, 3 - listed as u64));
    }
}
