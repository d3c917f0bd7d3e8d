//! What is at the addresses of one object: from its own debug information or that of a separate file, from
//! its symbols, those it carries compressed, and from the stubs of its procedure linkage table.
//!
//! The only module that knows blazesym's symbolizer. Slow at the first look at an object: it runs in the
//! thread of [`super::worker`]. Must not know processes.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized};

use super::compressed;
use super::content::Content;
use super::debug_file::{self, DebugFile, descriptor_path};
use super::debuginfod::{Answer, Servers};
use super::demangle::demangle;
use super::mappings::ObjectId;
use super::objects::Object;
use super::printable;

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name, demangled.
    pub(super) symbol: Option<Arc<str>>,
    /// Source file.
    pub(super) file: Option<Arc<str>>,
    /// Line in it.
    pub(super) line: Option<u32>,
    /// Whether it is inlined into the next.
    pub(super) inlined: bool,
}

/// The functions at an address, innermost first; empty where there is no symbol.
pub(super) type Functions = Arc<[Function]>;

/// The files that say something about one object.
#[derive(Debug, Default)]
struct Files {
    debug: Option<DebugFile>,
    symbols: Option<File>,
}

/// Reads names. Files are opened once and kept.
#[derive(Debug)]
pub(super) struct Reader {
    symbolizer: blazesym::symbolize::Symbolizer,
    files: HashMap<ObjectId, Files>,
    servers: Servers,
}

fn new_symbolizer() -> blazesym::symbolize::Symbolizer {
    blazesym::symbolize::Symbolizer::builder()
        .enable_code_info(true)
        .enable_inlined_fns(true)
        // blazesym takes every name for a mangled one: a C function `t` becomes `unsigned short`.
        .enable_demangling(false)
        // A path can come to mean another file during a run: descriptors are used again.
        .enable_auto_reload(true)
        .build()
}

impl Reader {
    /// Nothing read yet.
    pub(super) fn new(servers: Servers) -> Self {
        Self {
            symbolizer: new_symbolizer(),
            files: HashMap::new(),
            servers,
        }
    }

    /// Looks again for files of these objects: a debug file has arrived.
    pub(super) fn forget(&mut self, id: ObjectId) {
        self.files.remove(&id);
    }

    /// How many debug files are on their way here.
    pub(super) fn fetching(&self) -> usize {
        self.servers.fetching()
    }

    /// What is at these addresses of the object, in its own numbering; nothing where it has no symbol.
    pub(super) fn look_up(
        &mut self,
        id: ObjectId,
        object: &Object,
        addresses: &[u64],
    ) -> Vec<(u64, Functions)> {
        let Some(content) = &object.content else {
            return addresses
                .iter()
                .map(|&address| (address, Functions::from([])))
                .collect();
        };
        let mut found = Vec::with_capacity(addresses.len());
        let mut wanted = Self::stubs(object, content, addresses, &mut found);
        let files = self
            .files
            .remove(&id)
            .unwrap_or_else(|| self.open(id, object, content));
        if let Some(debug) = &files.debug {
            wanted = self.attempt(&debug.path(), true, &wanted, &mut found);
        } else if content.has_debug_info {
            wanted = self.attempt(&object.usable_path(), true, &wanted, &mut found);
        }
        if let Some(symbols) = &files.symbols {
            wanted = self.attempt(&descriptor_path(symbols), false, &wanted, &mut found);
        }
        wanted = self.attempt(&object.usable_path(), false, &wanted, &mut found);
        found.extend(wanted.into_iter().map(|address| (address, Functions::from([]))));
        self.files.insert(id, files);
        found
    }

    /// Takes out the addresses of stubs of the procedure linkage table; returns the others.
    fn stubs(
        object: &Object,
        content: &Content,
        addresses: &[u64],
        found: &mut Vec<(u64, Functions)>,
    ) -> Vec<u64> {
        let mut others = Vec::with_capacity(addresses.len());
        for &address in addresses {
            match content.plt_name(&object.file, address) {
                Some(name) => found.push((
                    address,
                    Functions::from([Function {
                        symbol: Some(printable(&name)),
                        file: None,
                        line: None,
                        inlined: false,
                    }]),
                )),
                None => others.push(address),
            }
        }
        others
    }

    fn open(&mut self, id: ObjectId, object: &Object, content: &Content) -> Files {
        let mut files = Files::default();
        if !content.has_debug_info {
            files.debug = debug_file::find(object, content).or_else(|| self.fetched(id, content));
        }
        if files.debug.is_none()
            && !content.has_symbols
            && let Some((offset, size_bytes)) = content.compressed_symbols
        {
            match compressed::decompress(&object.file, offset, size_bytes) {
                Ok(symbols) => files.symbols = Some(symbols),
                Err(error) => {
                    tracing::debug!(object = %object.path_in_process.display(), %error, "compressed symbols cannot be read");
                }
            }
        }
        files
    }

    /// The debug file from a server, if it is here already; else it is asked for.
    fn fetched(&mut self, id: ObjectId, content: &Content) -> Option<DebugFile> {
        let build_id = content.build_id.as_deref()?;
        match self.servers.debug_file(id, build_id) {
            Answer::Here(file) => DebugFile::of_build_id(file, build_id),
            Answer::Asked | Answer::None => None,
        }
    }

    /// Adds what is found; returns the addresses at which nothing was found.
    fn attempt(
        &mut self,
        path: &Path,
        debug_syms: bool,
        addresses: &[u64],
        found: &mut Vec<(u64, Functions)>,
    ) -> Vec<u64> {
        if addresses.is_empty() {
            return Vec::new();
        }
        let mut elf = Elf::new(path);
        elf.debug_syms = debug_syms;
        let source = Source::Elf(elf);
        // The parsers read whatever a target has mapped: should one of them panic, its object is shown
        // by offsets and the run goes on. The symbolizer it left behind is not used again.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let input = Input::VirtOffset(addresses);
            self.symbolizer
                .symbolize(&source, input)
                .map(|symbols| symbols.iter().map(functions_of).collect::<Vec<_>>())
        }));
        let symbols = match outcome {
            Ok(Ok(symbols)) if symbols.len() == addresses.len() => symbols,
            Ok(Ok(_)) => return addresses.to_vec(),
            Ok(Err(error)) => {
                tracing::debug!(object = %path.display(), debug_syms, %error, "symbols could not be read");
                return addresses.to_vec();
            }
            Err(_panic) => {
                tracing::warn!(object = %path.display(), debug_syms, "the symbolizer failed on this object");
                self.symbolizer = new_symbolizer();
                return addresses.to_vec();
            }
        };
        let mut failed = Vec::new();
        for (&address, functions) in addresses.iter().zip(symbols) {
            match functions {
                Some(functions) => found.push((address, functions)),
                None => failed.push(address),
            }
        }
        failed
    }
}

/// The functions of one result; none if nothing was found.
fn functions_of(symbolized: &Symbolized<'_>) -> Option<Functions> {
    match symbolized {
        Symbolized::Sym(symbol) => Some(all_functions(symbol)),
        Symbolized::Unknown(_) => None,
    }
}

/// blazesym lists inlined functions from the outside in, after the function that contains them.
fn all_functions(symbol: &Sym<'_>) -> Functions {
    let inlined = symbol.inlined.iter().rev();
    inlined
        .map(|function| new_function(&function.name, function.code_info.as_ref(), true))
        .chain([new_function(&symbol.name, symbol.code_info.as_deref(), false)])
        .collect()
}

fn new_function(name: &str, code: Option<&CodeInfo<'_>>, inlined: bool) -> Function {
    Function {
        symbol: (!name.is_empty()).then(|| printable(&demangle(name))),
        file: code.map(|code| printable(&code.to_path().to_string_lossy())),
        line: code.and_then(|code| code.line),
        inlined,
    }
}
