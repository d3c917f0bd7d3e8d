//! From a row of DWARF's call frame information to a [`Rule`].
//!
//! What a [`Rule`] cannot say exactly becomes one that is not followed. Must not know which rows are kept.

use gimli::{
    CfaRule, Encoding, EndianSlice, LittleEndian, Operation, Register, RegisterRule, UnwindExpression,
    UnwindSection, UnwindTableRow, X86_64,
};
use leaktrace_common::unwind::{Rule, cfa, rbp};

/// How unwind sections are read.
pub(super) type Reader<'d> = EndianSlice<'d, LittleEndian>;

/// Code with a rule that is not followed.
pub(super) const UNSUPPORTED: Rule = only(cfa::UNSUPPORTED);
/// The outermost frame.
pub(super) const END: Rule = only(cfa::END);
/// The code that a signal handler returns to.
pub(super) const SIGNAL: Rule = only(cfa::SIGNAL);
/// Nothing is known.
pub(super) const GAP: Rule = only(cfa::GAP);

/// Where the return address is, from the CFA.
const RETURN_ADDRESS: i64 = -8;

/// What linkers say of the procedure linkage table: rsp + 8 + ((rip & 15) >= 11) * 8.
const PLT: [u8; 11] = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];

/// Values that an expression works on at a time; those that are understood need two.
const EXPRESSION_DEPTH_MAX: usize = 4;

/// A rule that says no more than its kind.
const fn only(cfa: u8) -> Rule {
    Rule {
        cfa_offset: 0,
        rbp_offset: 0,
        cfa,
        rbp: rbp::SAME,
    }
}

/// The rule of a row.
pub(super) fn of_row<'d, S: UnwindSection<Reader<'d>>>(
    row: &UnwindTableRow<usize>,
    section: &S,
    encoding: Encoding,
) -> Rule {
    match row.register(X86_64::RA) {
        Some(RegisterRule::Offset(RETURN_ADDRESS)) => {}
        Some(RegisterRule::Undefined) => return END,
        _ => return UNSUPPORTED,
    }
    let evaluate = |expression: &UnwindExpression<usize>| {
        let expression = expression.get(section).ok()?;
        value_of(&expression, encoding)
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => cfa_of(Value::Sum(*register, *offset)),
        CfaRule::Expression(expression) => match expression.get(section) {
            Ok(expression) if expression.0.slice() == PLT => Some((cfa::PLT, 0)),
            _ => evaluate(expression).and_then(cfa_of),
        },
    };
    let caller_rbp = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue) => Some((rbp::SAME, 0)),
        Some(RegisterRule::Offset(offset)) => short(rbp::AT_CFA, offset),
        Some(RegisterRule::Expression(expression)) => match (evaluate(&expression), row.cfa()) {
            (Some(Value::Sum(X86_64::RBP, offset)), _) => short(rbp::AT_RBP, offset),
            (
                Some(Value::Sum(register, offset)),
                CfaRule::RegisterAndOffset {
                    register: base,
                    offset: distance,
                },
            ) if register == *base => offset
                .checked_sub(*distance)
                .and_then(|offset| short(rbp::AT_CFA, offset)),
            _ => None,
        },
        // Undefined as well: a caller that needs it would be followed by a wrong value.
        Some(_) => None,
    };
    let (Some((cfa, cfa_offset)), Some((rbp, rbp_offset))) = (cfa, caller_rbp) else {
        return UNSUPPORTED;
    };
    Rule {
        cfa_offset,
        rbp_offset,
        cfa,
        rbp,
    }
}

fn short(kind: u8, offset: i64) -> Option<(u8, i16)> {
    Some((kind, i16::try_from(offset).ok()?))
}

/// A value as far as it is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// A number.
    Number(i64),
    /// A register and a number.
    Sum(Register, i64),
    /// The word at a register and a number, and another number.
    Word(Register, i64, i64),
}

impl Value {
    fn plus(self, number: i64) -> Option<Self> {
        Some(match self {
            Self::Number(one) => Self::Number(one.checked_add(number)?),
            Self::Sum(register, offset) => Self::Sum(register, offset.checked_add(number)?),
            Self::Word(register, offset, more) => Self::Word(register, offset, more.checked_add(number)?),
        })
    }
}

/// Kind and offset of a rule whose CFA is this.
fn cfa_of(value: Value) -> Option<(u8, i32)> {
    match value {
        Value::Sum(X86_64::RSP, offset) => Some((cfa::RSP, i32::try_from(offset).ok()?)),
        Value::Sum(X86_64::RBP, offset) => Some((cfa::RBP, i32::try_from(offset).ok()?)),
        Value::Word(X86_64::RSP, offset, more) => Some((cfa::AT_RSP, both(offset, more)?)),
        Value::Word(X86_64::RBP, offset, more) => Some((cfa::AT_RBP, both(offset, more)?)),
        _ => None,
    }
}

/// 24 bits of where the word is and 8 of what is added to it.
fn both(offset: i64, more: i64) -> Option<i32> {
    let more = u8::try_from(more).ok()?;
    let offset = i32::try_from(offset).ok()?.checked_mul(1 << 8)?;
    Some(offset | i32::from(more))
}

/// What an expression computes, if that is a sum or a word in memory.
fn value_of(expression: &gimli::Expression<Reader<'_>>, encoding: Encoding) -> Option<Value> {
    let mut operations = expression.operations(encoding);
    let mut stack: Vec<Value> = Vec::with_capacity(EXPRESSION_DEPTH_MAX);
    while let Some(operation) = operations.next().ok()? {
        let value = match operation {
            Operation::RegisterOffset { register, offset, .. } => Value::Sum(register, offset),
            Operation::UnsignedConstant { value } => Value::Number(i64::try_from(value).ok()?),
            Operation::SignedConstant { value } => Value::Number(value),
            Operation::PlusConstant { value } => stack.pop()?.plus(i64::try_from(value).ok()?)?,
            Operation::Plus => match (stack.pop()?, stack.pop()?) {
                (Value::Number(number), other) | (other, Value::Number(number)) => other.plus(number)?,
                _ => return None,
            },
            Operation::Minus => match (stack.pop()?, stack.pop()?) {
                (Value::Number(number), other) => other.plus(number.checked_neg()?)?,
                _ => return None,
            },
            Operation::Deref {
                size: 8,
                space: false,
                ..
            } => match stack.pop()? {
                Value::Sum(register, offset) => Value::Word(register, offset, 0),
                _ => return None,
            },
            Operation::Nop => continue,
            _ => return None,
        };
        if stack.len() == EXPRESSION_DEPTH_MAX {
            return None;
        }
        stack.push(value);
    }
    stack.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> Option<Value> {
        let encoding = Encoding {
            format: gimli::Format::Dwarf32,
            version: 4,
            address_size: 8,
        };
        value_of(
            &gimli::Expression(EndianSlice::new(bytes, LittleEndian)),
            encoding,
        )
    }

    #[test]
    fn expressions_of_real_files() {
        // gcc's realigned stack: CFA by breg6 -8; deref; rbp by breg6 0.
        assert_eq!(value(&[0x76, 0x78, 0x06]), Some(Value::Word(X86_64::RBP, -8, 0)));
        assert_eq!(value(&[0x76, 0]), Some(Value::Sum(X86_64::RBP, 0)));
        // libcrypto: breg7 152; deref; plus_uconst 8.
        let word = value(&[0x77, 0x98, 1, 0x06, 0x23, 8]).unwrap();
        assert_eq!(word, Value::Word(X86_64::RSP, 152, 8));
        assert_eq!(cfa_of(word), Some((cfa::AT_RSP, 152 << 8 | 8)));
        let below = value(&[0x77, 0x78, 0x06, 0x23, 8]).unwrap();
        let (_, packed) = cfa_of(below).unwrap();
        assert_eq!((packed >> 8, packed & 0xff), (-8, 8));
        // libcrypto: breg7 8; breg9 0; lit8; mul; plus; deref; plus_uconst 8 needs r9.
        assert_eq!(value(&[0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8]), None);
    }

    #[test]
    fn sums_are_exact_or_not_at_all() {
        // breg7 16; lit8; minus
        assert_eq!(value(&[0x77, 16, 0x38, 0x1c]), Some(Value::Sum(X86_64::RSP, 8)));
        // lit8; breg7 16; plus
        assert_eq!(value(&[0x38, 0x77, 16, 0x22]), Some(Value::Sum(X86_64::RSP, 24)));
        assert_eq!(value(&[]), None);
        assert_eq!(value(&[0x06]), None);
        assert_eq!(value(&[0x77]), None);
        assert_eq!(cfa_of(Value::Number(8)), None);
        assert_eq!(cfa_of(Value::Word(X86_64::RSP, 0, 256)), None);
        assert_eq!(cfa_of(Value::Word(X86_64::RSP, 0, -1)), None);
        assert_eq!(cfa_of(Value::Word(X86_64::RSP, 1 << 23, 0)), None);
        assert_eq!(cfa_of(Value::Sum(X86_64::RSP, 1 << 31)), None);
        assert_eq!(cfa_of(Value::Sum(X86_64::RAX, 8)), None);
    }
}
