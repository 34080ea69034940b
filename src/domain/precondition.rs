//! What an edit expects to find, so that two people never undo each other's work unseen (RFC 9110, section 13).

/// What an edit expects to find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing in particular.
    #[default]
    None,
    /// `If-Match: *`: the thing is there.
    Present,
    /// `If-Match: "a", "b"`: the thing is there in one of these versions.
    OneOf(Vec<String>),
    /// `If-None-Match: *`: the thing is not there yet.
    Absent,
}

impl Precondition {
    /// Reads the values of `If-Match` and `If-None-Match`; a weak tag never matches, as the RFC has it.
    pub fn parse(if_match: Option<&str>, if_none_match: Option<&str>) -> Result<Self, String> {
        match (if_match.map(str::trim), if_none_match.map(str::trim)) {
            (None, None) => Ok(Self::None),
            (None, Some("*")) => Ok(Self::Absent),
            (Some("*"), None) => Ok(Self::Present),
            (Some(tags), None) => {
                let tags: Option<Vec<_>> = tags.split(',').map(|tag| read_tag(tag.trim())).collect();
                let tags = tags.ok_or("`If-Match` holds no list of quoted tags")?.into_iter();
                Ok(Self::OneOf(tags.filter(|(strong, _)| *strong).map(|(_, tag)| tag).collect()))
            }
            (None, Some(_)) => Err("`If-None-Match` of a change can only be `*`".to_owned()),
            (Some(_), Some(_)) => Err("`If-Match` and `If-None-Match` exclude each other".to_owned()),
        }
    }

    /// Whether it holds for the version that is there now.
    pub fn holds(&self, current: Option<&str>) -> bool {
        match (self, current) {
            (Self::None, _) | (Self::Present, Some(_)) | (Self::Absent, None) => true,
            (Self::OneOf(tags), Some(current)) => tags.iter().any(|tag| tag == current),
            (Self::Present | Self::OneOf(_), None) | (Self::Absent, Some(_)) => false,
        }
    }
}

/// Whether a tag is strong, and its inside; `None` for what is no tag.
fn read_tag(text: &str) -> Option<(bool, String)> {
    let weak = text.strip_prefix("W/");
    let inside = weak.unwrap_or(text).strip_prefix('"')?.strip_suffix('"')?;
    (!inside.contains('"')).then(|| (weak.is_none(), inside.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_holds_for_the_version_it_names() {
        let parse = |if_match, if_none_match| Precondition::parse(if_match, if_none_match).unwrap();
        for (condition, version, holds) in [
            (parse(None, None), None, true),
            (parse(None, None), Some("1"), true),
            (parse(Some("*"), None), Some("1"), true),
            (parse(Some("*"), None), None, false),
            (parse(Some("\"1\""), None), Some("1"), true),
            (parse(Some("\"2\", \"1\""), None), Some("1"), true),
            (parse(Some("\"2\""), None), Some("1"), false),
            (parse(Some("\"2\""), None), None, false),
            (parse(Some("W/\"1\""), None), Some("1"), false),
            (parse(None, Some("*")), None, true),
            (parse(None, Some("*")), Some("1"), false),
        ] {
            assert_eq!(condition.holds(version), holds, "{condition:?} {version:?}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for (if_match, if_none_match) in
            [(Some("1"), None), (Some(""), None), (Some("\"1"), None), (None, Some("\"1\"")), (Some("*"), Some("*"))]
        {
            Precondition::parse(if_match, if_none_match).unwrap_err();
        }
    }
}
