//! Where probes are, in words: for `-v`, and as the table of docs/probe-sites.md.
//!
//! Must not choose anything.

use std::fmt::Write as _;
use std::path::PathBuf;

use iced_x86::{Decoder, DecoderOptions, Formatter as _, GasFormatter, Instruction};

use super::elf::{self, ElfError, Function, Scan};
use super::site::{SiteKind, Why};

/// How a function is probed, on one line: its first instruction, the probed one, and why that.
pub fn placement(function: &Function) -> String {
    let hands_over = if function.cookie.hands_over() {
        ", hands over"
    } else {
        ""
    };
    format!(
        "begins with '{}', probed at +{} ({}): {}{hands_over}",
        instruction_at(function, 0),
        function.site.offset_bytes,
        function.site.kind.name(),
        function.site.why
    )
}

/// A Markdown table for each file.
///
/// # Errors
/// [`ElfError`] for a file that cannot be scanned.
pub fn markdown(files: &[PathBuf]) -> Result<String, ElfError> {
    let mut text = String::new();
    for (index, path) in files.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        table(&mut text, &name, &elf::scan_path(path, &[])?);
    }
    Ok(text)
}

fn table(text: &mut String, name: &str, scan: &Scan) {
    // Those among them that are probed beside a Python interpreter only.
    let functions: Vec<&Function> = scan.all_functions().collect();
    let cheap = functions
        .iter()
        .filter(|function| function.site.kind != SiteKind::SingleStepped);
    let title = format!(
        "`{name}`: {} functions, {} of them at an emulated instruction",
        functions.len(),
        cheap.count()
    );
    let head = "| function | first instruction | probed at | probed instruction | kind | hands over | why not cheaper |";
    let mut lines = vec![
        title,
        String::new(),
        head.to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(functions.into_iter().map(row));
    for line in lines {
        // A `String` takes everything.
        let _always: std::fmt::Result = writeln!(text, "{line}");
    }
}

fn row(function: &Function) -> String {
    let site = &function.site;
    format!(
        "| `{}` | `{}` | +{} | `{}` | {} | {} | {} |",
        function.symbol,
        instruction_at(function, 0),
        site.offset_bytes,
        instruction_at(function, site.offset_bytes),
        site.kind.name(),
        if function.cookie.hands_over() { "yes" } else { "no" },
        match &site.why {
            Why::Entry(refused) if site.kind == SiteKind::SingleStepped => refused.to_string(),
            _ => String::new(),
        }
    )
}

/// An instruction in the syntax of the GNU assembler. Addresses in it are distances from the function.
fn instruction_at(function: &Function, offset_bytes: u64) -> String {
    let code = function.prologue.get(offset_bytes as usize..).unwrap_or_default();
    let instruction = Decoder::with_ip(64, code, offset_bytes, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return "?".to_owned();
    }
    text_of(&instruction)
}

fn text_of(instruction: &Instruction) -> String {
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(false);
    options.set_rip_relative_addresses(true);
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}
