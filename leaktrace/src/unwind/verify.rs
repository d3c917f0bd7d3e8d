//! Compares stacks that the kernel side has walked with what framehop makes of the same registers and bytes. Must not
//! know how either walks.

use leaktrace_common::unwind::end;

use super::finish::{End, Walk};

/// What came of the comparison of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same frames.
    Equal,
    /// The same, as far as framehop came: it ran out of bytes or gave up.
    FramehopEndsEarly,
    /// The same, as far as the kernel side came, and it says that there is more.
    KernelEndsEarly,
    /// Not the same from this frame of the kernel side's on.
    Differ(usize),
}

/// Compares. `kernel` are the frames as kept, the probed instruction and its caller first; `ended` is how that walk
/// ended, one of [`end`]; `walk` began at the caller.
pub fn compare(kernel: &[u64], ended: u64, walk: &Walk) -> Verdict {
    let equal = equal_frames(kernel, walk);
    let kernel = kernel.get(2..).unwrap_or_default();
    if equal < kernel.len().min(walk.frames.len()) {
        return Verdict::Differ(2 + equal);
    }
    let whole = walk.end == End::Outermost;
    match kernel.len().cmp(&walk.frames.len()) {
        std::cmp::Ordering::Equal if whole == (ended == end::COMPLETE) => Verdict::Equal,
        std::cmp::Ordering::Equal if whole => Verdict::KernelEndsEarly,
        // Whoever says that a stack ends where it goes on is wrong.
        std::cmp::Ordering::Greater if whole => Verdict::Differ(2 + equal),
        std::cmp::Ordering::Less if ended == end::COMPLETE => Verdict::Differ(2 + equal),
        std::cmp::Ordering::Less => Verdict::KernelEndsEarly,
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Verdict::FramehopEndsEarly,
    }
}

/// Frames that are the same in both, from the one on that called the probed function's caller.
pub fn equal_frames(kernel: &[u64], walk: &Walk) -> usize {
    let kernel = kernel.get(2..).unwrap_or_default();
    let both = kernel.iter().zip(&walk.frames);
    both.take_while(|(kernel, framehop)| kernel == framehop).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(frames: &[u64], end: End) -> Walk {
        Walk {
            frames: frames.to_vec(),
            end,
        }
    }

    #[test]
    fn equal_frames_are_equal_if_both_say_that_it_is_all() {
        let kernel = [1, 2, 3, 4];
        let whole = walk(&[3, 4], End::Outermost);
        assert_eq!(compare(&kernel, end::COMPLETE, &whole), Verdict::Equal);
        assert_eq!(compare(&kernel, end::GAP, &whole), Verdict::KernelEndsEarly);
        let short = walk(&[3, 4], End::OutOfBytes);
        assert_eq!(
            compare(&kernel, end::COMPLETE, &short),
            Verdict::FramehopEndsEarly
        );
        assert_eq!(
            compare(&kernel, end::GAP, &walk(&[3, 4], End::NothingKnown)),
            Verdict::Equal
        );
    }

    #[test]
    fn fewer_frames_are_no_difference_if_more_were_expected() {
        let kernel = [1, 2, 3, 4];
        let short = walk(&[3], End::OutOfBytes);
        assert_eq!(
            compare(&kernel, end::COMPLETE, &short),
            Verdict::FramehopEndsEarly
        );
        assert_eq!(
            compare(&kernel, end::COMPLETE, &walk(&[3], End::Outermost)),
            Verdict::Differ(3)
        );
        let more = walk(&[3, 4, 5], End::Outermost);
        assert_eq!(compare(&kernel, end::TOO_DEEP, &more), Verdict::KernelEndsEarly);
        assert_eq!(compare(&kernel, end::COMPLETE, &more), Verdict::Differ(4));
    }

    #[test]
    fn other_frames_are_a_difference_however_the_walks_ended() {
        for ended in [end::COMPLETE, end::GAP] {
            let verdict = compare(&[1, 2, 3, 4], ended, &walk(&[3, 5], End::OutOfBytes));
            assert_eq!(verdict, Verdict::Differ(3));
        }
        assert_eq!(
            compare(&[1], end::FAULT, &walk(&[], End::OutOfBytes)),
            Verdict::Equal
        );
    }
}
