//! clap's errors of several lines, folded into one that ends with the way out.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error as _;

use super::{Stop, UsageError};

const SEE_HELP: &str = "see 'leaktrace --help'";

/// Help and version as they are, anything else as one line.
pub(super) fn stop(error: clap::Error) -> Stop {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Stop::Help(Box::new(error)),
        _ => Stop::Usage(UsageError(line(&error))),
    }
}

fn line(error: &clap::Error) -> String {
    let argument = strings(error, ContextKind::InvalidArg).map(|names| option_name(&names.join(" or ")));
    let value = string(error, ContextKind::InvalidValue);
    match (error.kind(), argument, value) {
        (ErrorKind::InvalidValue | ErrorKind::NoEquals, Some(option), value) => {
            bad_choice(error, &option, value.as_deref().unwrap_or_default())
        }
        (ErrorKind::ValueValidation, Some(option), Some(value)) => {
            // Parsers of ours end with what to type; those of clap (numbers) do not.
            match error.source().map(ToString::to_string) {
                Some(reason) if reason.contains(": ") => format!("{option} '{value}': {reason}"),
                Some(reason) => format!("{option} '{value}': {reason}; {SEE_HELP}"),
                None => format!("{option} '{value}' is not valid: {SEE_HELP}"),
            }
        }
        (ErrorKind::UnknownArgument, Some(argument), _) => unknown(error, &argument),
        (ErrorKind::InvalidSubcommand, _, _) => unknown(
            error,
            &string(error, ContextKind::InvalidSubcommand).unwrap_or_default(),
        ),
        (ErrorKind::ArgumentConflict, Some(option), _) => conflict(error, &option),
        (ErrorKind::TooManyValues, Some(option), Some(value)) => {
            format!("{option} takes no value: leave '{value}' out")
        }
        (ErrorKind::MissingRequiredArgument, ..) => {
            missing_argument(&string(error, ContextKind::InvalidArg).unwrap_or_default())
        }
        _ => format!("{}; {SEE_HELP}", first_line(error)),
    }
}

fn bad_choice(error: &clap::Error, option: &str, value: &str) -> String {
    let choices = strings(error, ContextKind::ValidValue).unwrap_or_default();
    match (value.is_empty(), choices.is_empty()) {
        (true, true) => format!("{option} needs a value: {SEE_HELP}"),
        (true, false) => format!("{option} needs a value: give {}", one_of(&choices)),
        (false, true) => format!("{option} '{value}' is not valid: {SEE_HELP}"),
        (false, false) => format!("{option} '{value}' is not known: give {}", one_of(&choices)),
    }
}

fn unknown(error: &clap::Error, argument: &str) -> String {
    if argument.starts_with('-') {
        return match string(error, ContextKind::SuggestedArg) {
            Some(similar) => format!(
                "no option '{argument}': did you mean '{}'?",
                option_name(&similar)
            ),
            None => format!(
                "no option '{argument}': {SEE_HELP}; options of a command to trace go after '--', as in \
                 'leaktrace -- CMD ARGS'"
            ),
        };
    }
    if !argument.is_empty() && argument.bytes().all(|byte| byte.is_ascii_digit() || byte == b',') {
        return format!("unexpected '{argument}': to trace a process type 'leaktrace -p {argument}'");
    }
    let program = format!("to trace a program type 'leaktrace -- {argument}'");
    match strings(error, ContextKind::SuggestedSubcommand).as_deref() {
        Some([similar, ..]) => {
            format!("unexpected '{argument}': did you mean 'leaktrace {similar}'? Or {program}")
        }
        _ => format!("unexpected '{argument}': {program}"),
    }
}

fn conflict(error: &clap::Error, option: &str) -> String {
    let others = strings(error, ContextKind::PriorArg).unwrap_or_default();
    match others.first().map(|other| option_name(other)) {
        Some(other) if other == option => format!("{option} was given twice: leave one out"),
        Some(other) => format!("{option} and {other} do not go together: leave one out"),
        None => format!("{option} does not go with the other options; {SEE_HELP}"),
    }
}

fn missing_argument(missing: &str) -> String {
    match missing {
        missing if missing.starts_with("--object") => "--alloc and --free need to know where the function is: add --object PATH".to_owned(),
        missing if missing.contains("--alloc") => {
            "--object alone does nothing: add --alloc SPEC or --free SPEC, such as --alloc 'pool_get(size=arg0)->ret'"
                .to_owned()
        }
        "<SHELL>" => "completions are made for a shell: type 'leaktrace completions bash', or elvish, fish, powershell, zsh".to_owned(),
        missing => format!("{missing} is missing; {SEE_HELP}"),
    }
}

/// `--interval <DUR>` as `--interval`; the command's place as `-- CMD`.
fn option_name(argument: &str) -> String {
    match argument {
        command if command.contains("CMD") => "-- CMD".to_owned(),
        option if option.starts_with('-') => option.split([' ', '=']).next().unwrap_or_default().to_owned(),
        place => place.trim_matches(['<', '>']).to_lowercase(),
    }
}

fn one_of(choices: &[String]) -> String {
    match choices {
        [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        _ => choices.join(""),
    }
}

fn string(error: &clap::Error, kind: ContextKind) -> Option<String> {
    strings(error, kind)?.into_iter().next()
}

fn strings(error: &clap::Error, kind: ContextKind) -> Option<Vec<String>> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(vec![text.clone()]),
        ContextValue::Strings(texts) => Some(texts.clone()),
        ContextValue::StyledStr(text) => Some(vec![text.to_string()]),
        _ => None,
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_owned()
}
