//! A table with the defaults behind it, and the value of one of its keys, if it is there and right.

use std::{
    fmt::Display,
    ops::{Range, RangeInclusive},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::Reader;

/// A virtual host's table, and the defaults behind it.
#[derive(Clone, Copy)]
pub(super) struct Section<'t> {
    pub(super) own: &'t DeTable<'t>,
    pub(super) defaults: Option<&'t DeTable<'t>>,
    /// Where it begins in the text.
    pub(super) at: usize,
}

impl<'t> Section<'t> {
    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.own.get(key).or_else(|| self.defaults?.get(key))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

impl Reader<'_> {
    /// A key that must be there.
    pub(super) fn needed<T: DeserializeOwned>(&mut self, section: Section<'_>, key: &str) -> Option<Spanned<T>> {
        if !section.has(key) {
            self.note(section.at..section.at, format!("`{key}` is missing"));
        }
        self.given(section, key)
    }

    /// A key's value, if it is there and right.
    pub(super) fn given<T: DeserializeOwned>(&mut self, section: Section<'_>, key: &str) -> Option<Spanned<T>> {
        let value: &Spanned<DeValue<'_>> = section.get(key)?;
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(value) => Some(Spanned::new(span, value)),
            Err(error) => {
                self.note(error.span().unwrap_or(span), format!("{key}: {}", error.message()));
                None
            }
        }
    }

    /// A key's value, or what it is if it is not there.
    pub(super) fn plain<T: DeserializeOwned>(&mut self, section: Section<'_>, key: &str, default: T) -> T {
        self.given(section, key).map_or(default, Spanned::into_inner)
    }

    /// A number within a range; `None` if it is wrong.
    pub(super) fn number<N: TryFrom<i64> + Display, T>(
        &mut self,
        section: Section<'_>,
        key: &str,
        range: RangeInclusive<N>,
        new: impl Fn(N) -> Option<T>,
        default: N,
    ) -> Option<T> {
        if !section.has(key) {
            return new(default);
        }
        let found = self.given::<i64>(section, key)?;
        self.ranged(found, key, range, new).map(|(value, _)| value)
    }

    /// A number that has no default; `None` for a mistake.
    pub(super) fn if_given<N: TryFrom<i64> + Display, T>(
        &mut self,
        section: Section<'_>,
        key: &str,
        range: RangeInclusive<N>,
        new: impl Fn(N) -> Option<T>,
    ) -> Option<Option<T>> {
        if !section.has(key) {
            return Some(None);
        }
        let found = self.given::<i64>(section, key)?;
        self.ranged(found, key, range, new).map(|(value, _)| Some(value))
    }

    /// A number of seconds within a range.
    pub(super) fn seconds(
        &mut self,
        section: Section<'_>,
        key: &str,
        range: RangeInclusive<i64>,
        default: i64,
    ) -> Option<Duration> {
        let new = |seconds: i64| range.contains(&seconds).then(|| Duration::from_secs(seconds.unsigned_abs()));
        self.number(section, key, range.clone(), new, default)
    }

    pub(super) fn ranged<N: TryFrom<i64> + Display, T>(
        &mut self,
        found: Spanned<i64>,
        key: &str,
        range: RangeInclusive<N>,
        new: impl Fn(N) -> Option<T>,
    ) -> Option<(T, Range<usize>)> {
        let number = *found.get_ref();
        let value = N::try_from(number).ok().and_then(new);
        if value.is_none() {
            self.note(found.span(), format!("{key}: {number} is not in {} to {}", range.start(), range.end()));
        }
        value.map(|value| (value, found.span()))
    }

    /// The smallest and the largest value that a field may have; all that it can have, unless given.
    pub(super) fn range(&mut self, section: Section<'_>, key: &str, within: RangeInclusive<u8>) -> Option<[u8; 2]> {
        let (least, most) = (*within.start(), *within.end());
        let Some(found) = section.get(key) else { return Some([least, most]) };
        let read = ValueDeserializer::from(found.clone());
        let range = match found.get_ref() {
            DeValue::Array(_) => <[u8; 2]>::deserialize(read),
            _ => u8::deserialize(read).map(|one| [one; 2]),
        };
        let range = range.ok().filter(|[from, to]| least <= *from && from <= to && *to <= most);
        if range.is_none() {
            let what = format!("{key}: is to be a number of {least} to {most}, or the smallest and the largest");
            self.note(found.span(), what);
        }
        range
    }

    /// A list of tables; none if it is not there, and `None` if it is something else.
    pub(super) fn tables<'t>(&mut self, section: Section<'t>, key: &str) -> Option<Vec<Section<'t>>> {
        let Some(found) = section.get(key) else { return Some(vec![]) };
        let tables = found.get_ref().as_array().and_then(|list| {
            let table = |value: &'t Spanned<DeValue<'t>>| {
                Some(Section { own: value.get_ref().as_table()?, defaults: None, at: value.span().start })
            };
            list.iter().map(table).collect()
        });
        if tables.is_none() {
            self.note(found.span(), format!("{key}: is to be a list of tables: [{{ ... }}]"));
        }
        tables
    }
}
