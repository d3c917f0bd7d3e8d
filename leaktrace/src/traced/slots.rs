//! The numbers under which the kernel side counts the hits of each probed function. Pure.

use leaktrace_common::{
    call::{CallId, Op, Space},
    record::HIT_SLOTS,
};

use crate::{
    probe::{
        elf::{Function, Returns},
        site::SiteKind,
    },
    symbol::objects::ObjectId,
};

/// How the return of a function is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// By a return probe.
    Probe,
    /// By probes on its `ret` instructions, which are single-stepped.
    Instruction,
}

/// A function of an object, whichever processes map it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its object.
    pub object: ObjectId,
    /// Its symbol.
    pub function: String,
    /// Number of its call.
    pub call: CallId,
    /// What it does to blocks.
    pub op: Op,
    /// Of which memory they are.
    pub space: Space,
    /// The instruction that is probed for its entry.
    pub entry: SiteKind,
    /// At its return, where that is probed.
    pub exit: Option<Return>,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub struct Slots(Vec<Slot>);

impl Slots {
    /// The number that all functions share for which there is none left.
    pub const SHARED: u16 = 0;

    /// Gives a function of `object` its number, which its cookie takes along.
    pub fn assign(&mut self, object: ObjectId, function: &mut Function) {
        let number = self.0.len() + 1;
        if number >= HIT_SLOTS {
            return;
        }
        function.cookie = function.cookie.with_slot(number as u16);
        self.0.push(Slot {
            object,
            function: function.symbol.clone(),
            call: function.call,
            op: function.shape.op,
            space: function.shape.space,
            entry: function.site.kind,
            exit: match function.returns {
                Returns::None => None,
                Returns::Probe => Some(Return::Probe),
                Returns::Instructions(_) => Some(Return::Instruction),
            },
        });
    }

    /// The function of a number.
    pub fn get(&self, number: u16) -> Option<&Slot> {
        self.0.get(usize::from(number).checked_sub(1)?)
    }

    /// All with their numbers, from 1.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Slot)> {
        (1..).zip(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use leaktrace_common::call::{Arg, ResultIn, Shape};

    use super::*;
    use crate::probe::site::{Site, Why};

    fn function() -> Function {
        let shape = Shape {
            op: Op::Alloc,
            size: Arg::new(0),
            count: Arg::NONE,
            pointer: Arg::NONE,
            result: ResultIn::ReturnValue,
            frees_on_failure: false,
            delegates: false,
            space: Space::Heap,
        };
        Function {
            symbol: "malloc".to_owned(),
            call: 3,
            shape,
            cookie: shape.cookie(3),
            offset: 0x10,
            size_bytes: 0,
            returns: Returns::Probe,
            site: Site::entry(&[0x55], shape, Why::Forced),
            prologue: vec![0x55],
        }
    }

    #[test]
    fn numbers_end_where_the_kernels_table_does() {
        let mut slots = Slots::default();
        let object = ObjectId(1);
        let mut last = 0;
        for _ in 0..HIT_SLOTS + 5 {
            let mut function = function();
            slots.assign(object, &mut function);
            last = function.cookie.slot();
            assert_eq!(function.cookie.call(), 3);
        }
        assert_eq!(last, Slots::SHARED);
        assert_eq!(slots.iter().count(), HIT_SLOTS - 1);
        assert_eq!(slots.get(Slots::SHARED), None);
        assert_eq!(slots.get(1023).unwrap().exit, Some(Return::Probe));
        assert_eq!(slots.get(1024), None);
    }
}
