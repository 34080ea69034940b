//! Names that stand in paths, and words that stand in lists.

use uuid::Uuid;

/// Longest name.
pub const MAX_NAME_CHARS: usize = 100;
/// Longest free text, such as a description.
pub const MAX_TEXT_CHARS: usize = 10_000;

/// What a path calls a thing: its id or its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// A UUID.
    Id(Uuid),
    /// Anything else.
    Name(&'a str),
}

impl<'a> Reference<'a> {
    /// Reads a path segment; `None` where it can be neither id nor name.
    pub fn parse(text: &'a str) -> Option<Self> {
        match Uuid::try_parse(text) {
            Ok(id) => Some(Self::Id(id)),
            Err(_) => check_name(text).is_ok().then_some(Self::Name(text)),
        }
    }

    /// The id, if it is one.
    pub fn id(self) -> Option<Uuid> {
        match self {
            Self::Id(id) => Some(id),
            Self::Name(_) => None,
        }
    }

    /// The name, if it is one.
    pub fn name(self) -> Option<&'a str> {
        match self {
            Self::Id(_) => None,
            Self::Name(name) => Some(name),
        }
    }
}

/// Checks a name: letters, digits, `.`, `_`, `-`, a letter or digit first, at most 100, not shaped like an id.
pub fn check_name(text: &str) -> Result<(), String> {
    if Uuid::try_parse(text).is_ok() {
        return Err(format!("`{text}` is shaped like an id"));
    }
    check_word(text)
}

/// Checks a word, such as the name of a metric or a tag: as [`check_name`], whatever its shape.
pub fn check_word(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text.chars().next() {
        None => Err("is empty".to_owned()),
        Some(first) if !first.is_ascii_alphanumeric() => {
            Err(format!("`{}` must begin with a letter or a digit", shown(text)))
        }
        Some(_) if !text.chars().all(allowed) => {
            Err(format!("`{}` may hold only ASCII letters, digits, `.`, `_` and `-`", shown(text)))
        }
        Some(_) if text.len() > MAX_NAME_CHARS => Err(format!("is longer than {MAX_NAME_CHARS} characters")),
        Some(_) => Ok(()),
    }
}

/// Checks free text: Postgres keeps everything except NUL.
pub fn check_text(text: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err("holds a NUL character".to_owned());
    }
    if text.chars().count() > MAX_TEXT_CHARS {
        return Err(format!("is longer than {MAX_TEXT_CHARS} characters"));
    }
    Ok(())
}

/// A stranger's text as messages show it.
pub fn shown(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words_that_are_no_ids() {
        for good in ["resnet20", "2026-01-02_run.3", "a"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "ä", "a\0", "0190f3a8-0000-7000-8000-000000000001"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name(&"a".repeat(101)).is_err());
    }
}
