//! What `--alloc` and `--free` mean: one function of a custom allocator, as the user describes it.
//!
//! Turns text such as `pool_get(size=arg1)->ret` into a symbol and a [`Shape`]. Must not know whether
//! the symbol exists.

use leaktrace_common::call::{Arg, Op, ResultIn, Shape, Space};

/// A function that the user described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomFunction {
    /// Its symbol.
    pub symbol: String,
    /// How its arguments and result are read.
    pub shape: Shape,
}

/// Why a description was not understood. Every sentence ends with a form that works.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The text is not of the form `name(...)`.
    #[error("'{spec}': {problem}; write it as {example}")]
    Form {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        problem: String,
        /// What it could look like.
        example: &'static str,
    },
    /// A return probe on a function that an exception leaves kills the process.
    #[error(
        "'{symbol}' is a C++ or Rust function: a probe on its return would kill the process if it throws; \
         name the C function beneath it that hands out the blocks, or put an extern \"C\" noexcept function around it"
    )]
    MayThrow {
        /// The symbol.
        symbol: String,
    },
}

const ALLOC_EXAMPLE: &str = "'pool_get(size=arg1)->ret', 'pool_get(size=arg0,count=arg1,out=arg2)' or 'pool_grow(ptr=arg0,size=arg1)->ret'";
const FREE_EXAMPLE: &str = "'pool_put(ptr=arg0)'";

/// Parses `--alloc`: `size=argN` is required, `count=argN` multiplies it, `ptr=argN` is the block that a
/// realloc takes; the new block is in the return value (`->ret`) or behind a pointer (`out=argN`, the
/// return value then being 0 on success). Mangled names are refused since they may throw; whether a plain
/// name belongs to a function that lets exceptions out (`extern "C"` alone does not prevent it) cannot be
/// told from the name, and the user answers for it.
///
/// # Errors
/// [`SpecError`], naming the part that is wrong.
pub fn parse_alloc(spec: &str) -> Result<CustomFunction, SpecError> {
    let parts = Parts::split(spec, ALLOC_EXAMPLE)?;
    if is_mangled(parts.symbol) {
        return Err(SpecError::MayThrow {
            symbol: parts.symbol.to_owned(),
        });
    }
    let fail = |problem: &str| Err(form(spec, problem, ALLOC_EXAMPLE));
    if parts.size == Arg::NONE {
        return fail("says not which argument is the size (size=argN)");
    }
    let result = match (parts.returns, parts.out == Arg::NONE) {
        (true, true) => ResultIn::ReturnValue,
        (false, false) => ResultIn::OutPointer,
        (true, false) => return fail("gives two places for the new block, ->ret and out"),
        (false, true) => return fail("says not where the new block is (->ret or out=argN)"),
    };
    if result == ResultIn::OutPointer && parts.pointer != Arg::NONE {
        return fail(
            "a function that takes a block (ptr) must return the new one (->ret), not write it to out",
        );
    }
    let (op, pointer) = match (result, parts.pointer == Arg::NONE) {
        (ResultIn::OutPointer, _) => (Op::Alloc, parts.out),
        (ResultIn::ReturnValue, true) => (Op::Alloc, Arg::NONE),
        (ResultIn::ReturnValue, false) => (Op::Realloc, parts.pointer),
    };
    Ok(CustomFunction {
        symbol: parts.symbol.to_owned(),
        shape: Shape {
            op,
            size: parts.size,
            count: parts.count,
            pointer,
            result,
            frees_on_failure: false,
            delegates: false,
            space: Space::Heap,
        },
    })
}

/// Parses `--free`: `ptr=argN` is the block.
///
/// # Errors
/// [`SpecError`], naming the part that is wrong.
pub fn parse_free(spec: &str) -> Result<CustomFunction, SpecError> {
    let parts = Parts::split(spec, FREE_EXAMPLE)?;
    let fail = |problem: &str| Err(form(spec, problem, FREE_EXAMPLE));
    if parts.pointer == Arg::NONE {
        return fail("says not which argument is the block (ptr=argN)");
    }
    if parts.size != Arg::NONE || parts.count != Arg::NONE || parts.out != Arg::NONE {
        return fail("a free is read from ptr alone");
    }
    if parts.returns {
        return fail("a free has no result (leave ->ret out)");
    }
    Ok(CustomFunction {
        symbol: parts.symbol.to_owned(),
        shape: Shape {
            op: Op::Free,
            size: Arg::NONE,
            count: Arg::NONE,
            pointer: parts.pointer,
            result: ResultIn::ReturnValue,
            frees_on_failure: false,
            // The custom pair may stand on malloc and free, which are probed too.
            delegates: true,
            space: Space::Heap,
        },
    })
}

/// Itanium C++ (and old Rust) mangling starts with `_Z`, Rust's own with `_R`.
fn is_mangled(symbol: &str) -> bool {
    symbol.starts_with("_Z") || symbol.starts_with("_R")
}

fn form(spec: &str, problem: &str, example: &'static str) -> SpecError {
    SpecError::Form {
        spec: spec.to_owned(),
        problem: problem.to_owned(),
        example,
    }
}

/// The pieces of a description, not yet judged together.
struct Parts<'a> {
    symbol: &'a str,
    size: Arg,
    count: Arg,
    pointer: Arg,
    out: Arg,
    returns: bool,
}

impl<'a> Parts<'a> {
    fn split(spec: &'a str, example: &'static str) -> Result<Self, SpecError> {
        let fail = |problem: String| Err(form(spec, &problem, example));
        let Some((symbol, rest)) = spec.split_once('(') else {
            return fail("has no argument list in parentheses".to_owned());
        };
        let Some((arguments, tail)) = rest.split_once(')') else {
            return fail("has no closing parenthesis".to_owned());
        };
        let symbol = symbol.trim();
        if symbol.contains("::") || symbol.contains('<') {
            return Err(SpecError::MayThrow {
                symbol: symbol.to_owned(),
            });
        }
        if symbol.is_empty() {
            return fail("has no function name before the parenthesis".to_owned());
        }
        if let Some(bad) = symbol
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || "_.$".contains(*c)))
        {
            return fail(format!("the function name '{symbol}' has a '{bad}'"));
        }
        let mut parts = Self {
            symbol,
            size: Arg::NONE,
            count: Arg::NONE,
            pointer: Arg::NONE,
            out: Arg::NONE,
            returns: false,
        };
        parts.returns = match tail.split_whitespace().collect::<String>().as_str() {
            "" => false,
            "->ret" => true,
            other => return fail(format!("'{other}' after the parenthesis is not '->ret'")),
        };
        let mut used = [None; 6];
        for argument in arguments.split(',') {
            if let Err(problem) = parts.take(argument.trim(), &mut used) {
                return fail(problem);
            }
        }
        Ok(parts)
    }

    fn take(&mut self, argument: &'a str, used: &mut [Option<&'a str>; 6]) -> Result<(), String> {
        let Some((key, value)) = argument.split_once('=') else {
            return Err(format!("'{argument}' is not of the form name=argN"));
        };
        let (key, value) = (key.trim(), value.trim());
        let place = match key {
            "size" => &mut self.size,
            "count" => &mut self.count,
            "ptr" => &mut self.pointer,
            "out" => &mut self.out,
            _ => return Err(format!("'{key}' is none of size, count, ptr and out")),
        };
        let number = value.strip_prefix("arg").filter(|digits| digits.len() == 1);
        let index = match number.and_then(|digits| digits.parse::<u8>().ok()) {
            Some(index) if index < 6 => index,
            _ => {
                return Err(format!(
                    "'{value}' is not one of arg0 to arg5 (arg0 is the first argument)"
                ));
            }
        };
        if *place != Arg::NONE {
            return Err(format!("'{key}' is given twice"));
        }
        if let Some(slot) = used.get_mut(usize::from(index))
            && let Some(other) = slot.replace(key)
        {
            return Err(format!("arg{index} is given as both {other} and {key}"));
        }
        *place = Arg::new(index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_returning_allocator() {
        let function = parse_alloc("pool_get(size=arg1)->ret").unwrap();
        assert_eq!(function.symbol, "pool_get");
        assert_eq!(function.shape.op, Op::Alloc);
        assert_eq!(function.shape.size, Arg::new(1));
        assert_eq!(function.shape.count, Arg::NONE);
        assert_eq!(function.shape.pointer, Arg::NONE);
        assert_eq!(function.shape.result, ResultIn::ReturnValue);
    }

    #[test]
    fn reads_an_out_pointer_with_a_count() {
        let shape = parse_alloc(" pool_get ( size = arg0 , count=arg1, out=arg2 ) ")
            .unwrap()
            .shape;
        assert_eq!(
            (shape.size, shape.count, shape.pointer),
            (Arg::new(0), Arg::new(1), Arg::new(2))
        );
        assert_eq!((shape.op, shape.result), (Op::Alloc, ResultIn::OutPointer));
    }

    #[test]
    fn reads_a_realloc_and_a_free() {
        let shape = parse_alloc("pool_grow(ptr=arg0,size=arg1) -> ret").unwrap().shape;
        assert_eq!(
            (shape.op, shape.pointer, shape.size),
            (Op::Realloc, Arg::new(0), Arg::new(1))
        );
        let free = parse_free("pool_put(ptr=arg5)").unwrap();
        assert_eq!((free.shape.op, free.shape.pointer), (Op::Free, Arg::new(5)));
    }

    #[test]
    fn names_the_part_that_is_wrong() {
        for (spec, part) in [
            ("pool_get", "no argument list"),
            ("pool_get(size=arg1", "no closing parenthesis"),
            ("(size=arg1)->ret", "no function name"),
            (
                "pool get(size=arg1)->ret",
                "the function name 'pool get' has a ' '",
            ),
            ("pool_get()->ret", "'' is not of the form name=argN"),
            ("pool_get(size)->ret", "'size' is not of the form"),
            ("pool_get(bytes=arg1)->ret", "'bytes' is none of"),
            ("pool_get(size=arg6)->ret", "'arg6' is not one of arg0 to arg5"),
            ("pool_get(size=rdi)->ret", "'rdi' is not one of"),
            ("pool_get(size=arg+1)->ret", "'arg+1' is not one of"),
            ("pool_get(size=arg1,size=arg2)->ret", "'size' is given twice"),
            (
                "pool_get(size=arg1,count=arg1)->ret",
                "arg1 is given as both size and count",
            ),
            ("pool_get(size=arg1)", "where the new block is"),
            ("pool_get(count=arg1)->ret", "which argument is the size"),
            ("pool_get(size=arg1,out=arg0)->ret", "two places"),
            ("pool_get(size=arg1,out=arg0,ptr=arg2)", "must return the new one"),
            ("pool_get(size=arg1)->rax", "'->rax' after the parenthesis"),
        ] {
            let message = parse_alloc(spec).unwrap_err().to_string();
            assert!(message.contains(part), "{spec}: {message}");
            assert!(message.contains("'pool_get(size=arg1)->ret'"), "{message}");
        }
        for (spec, part) in [
            ("pool_put(size=arg1)", "which argument is the block"),
            ("pool_put(ptr=arg0,size=arg1)", "from ptr alone"),
            ("pool_put(ptr=arg0)->ret", "no result"),
        ] {
            let message = parse_free(spec).unwrap_err().to_string();
            assert!(
                message.contains(part) && message.contains("'pool_put(ptr=arg0)'"),
                "{message}"
            );
        }
    }

    #[test]
    fn refuses_functions_that_may_throw_but_takes_their_frees() {
        for spec in [
            "_ZN4Pool3getEm(size=arg1)->ret",
            "_RNvC4pool3get(size=arg0)->ret",
            "Pool::get(size=arg1)->ret",
        ] {
            let error = parse_alloc(spec).unwrap_err();
            assert!(matches!(error, SpecError::MayThrow { .. }), "{spec}");
            assert!(error.to_string().contains("extern \"C\""));
        }
        assert_eq!(
            parse_free("_ZN4Pool3putEPv(ptr=arg1)").unwrap().symbol,
            "_ZN4Pool3putEPv"
        );
    }
}
