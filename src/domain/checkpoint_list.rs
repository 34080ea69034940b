//! Lists of a run's checkpoints: what is in them, in which order, and where a page ends.

use std::{
    fmt::{self, Write},
    str::FromStr,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    checkpoint::Checkpoint,
    name::{check_word, shown},
};

/// Most conditions on metrics.
const MAX_BOUNDS: usize = 16;

/// Which end comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascending,
    /// Greatest first.
    Descending,
}

/// What a list is ordered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortKey {
    /// The training step.
    Step,
    /// When it was stored.
    CreatedAt,
    /// A reported metric, then the step; checkpoints without the metric are not in the list.
    Metric(String),
}

/// The order of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort {
    /// What it is ordered by.
    pub key: SortKey,
    /// Which end comes first.
    pub order: Order,
}

impl Sort {
    /// Reads `step`, `created_at` or the name of a metric. Unless told, steps and times go down and metrics go up.
    pub fn parse(key: Option<&str>, order: Option<Order>) -> Result<Self, String> {
        let (key, usual) = match key.unwrap_or("created_at") {
            "step" => (SortKey::Step, Order::Descending),
            "created_at" => (SortKey::CreatedAt, Order::Descending),
            metric => {
                check_word(metric)?;
                (SortKey::Metric(metric.to_owned()), Order::Ascending)
            }
        };
        Ok(Self { key, order: order.unwrap_or(usual) })
    }

    /// The place of a checkpoint in this order; `None` where it lacks the metric.
    pub fn position_of(&self, checkpoint: &Checkpoint) -> Option<Position> {
        Some(match &self.key {
            SortKey::Step => Position::Step(checkpoint.step),
            SortKey::CreatedAt => Position::CreatedAt(checkpoint.created_at, checkpoint.checkpoint_id.0),
            SortKey::Metric(name) => Position::Metric(*checkpoint.reported.metrics.get(name)?, checkpoint.step),
        })
    }
}

/// A place in a list: that of the last checkpoint of a page. The next page begins behind it, whatever was inserted since.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// In a list by step.
    Step(i64),
    /// In a list by time.
    CreatedAt(DateTime<Utc>, Uuid),
    /// In a list by metric: value and step.
    Metric(f64, i64),
}

/// A position with the order it belongs to, as it travels in a page token.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    /// The order of the list.
    pub sort: Sort,
    /// Where the page before ended.
    pub position: Position,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char(if self.sort.order == Order::Ascending { 'a' } else { 'd' })?;
        match (&self.sort.key, self.position) {
            (SortKey::Metric(name), Position::Metric(value, step)) => {
                write!(f, "~m~{name}~{:016x}~{step}", value.to_bits())
            }
            (_, Position::CreatedAt(at, id)) => write!(f, "~c~{}~{}", at.timestamp_micros(), id.simple()),
            (_, Position::Step(step) | Position::Metric(_, step)) => write!(f, "~s~{step}"),
        }
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('~').collect();
        let (order, rest) = parts.split_first().ok_or(())?;
        let order = match *order {
            "a" => Order::Ascending,
            "d" => Order::Descending,
            _ => return Err(()),
        };
        let step = |text: &str| text.parse::<i64>().map_err(|_| ());
        let (key, position) = match *rest {
            ["s", at] => (SortKey::Step, Position::Step(step(at)?)),
            ["c", at, id] => {
                let at = DateTime::from_timestamp_micros(step(at)?).ok_or(())?;
                (SortKey::CreatedAt, Position::CreatedAt(at, Uuid::try_parse(id).map_err(|_| ())?))
            }
            ["m", name, bits, at] => {
                check_word(name).map_err(|_| ())?;
                let value = f64::from_bits(u64::from_str_radix(bits, 16).map_err(|_| ())?);
                let position = value.is_finite().then_some(Position::Metric(value, step(at)?)).ok_or(())?;
                (SortKey::Metric(name.to_owned()), position)
            }
            _ => return Err(()),
        };
        Ok(Self { sort: Sort { key, order }, position })
    }
}

/// A condition on a metric: `low <= value <= high`. A strict bound is the next number inside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// Name of the metric; a checkpoint without it does not meet the condition.
    pub metric: String,
    /// Least value.
    pub low: f64,
    /// Greatest value.
    pub high: f64,
}

impl Bound {
    /// Whether a value meets the condition.
    pub fn admits(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Reads conditions such as `val_loss<0.5,accuracy>=0.8`; `=` and `==` ask for equality.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let bounds: Vec<Self> =
            text.split(',').filter(|_| !text.is_empty()).map(Self::parse).collect::<Result<_, _>>()?;
        if bounds.len() > MAX_BOUNDS {
            return Err(format!("holds more than {MAX_BOUNDS} conditions"));
        }
        Ok(bounds)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not a condition such as `val_loss<0.5`", shown(text));
        let at = text.find(['<', '>', '=']).ok_or_else(wrong)?;
        let (metric, rest) = (text[..at].trim(), &text[at..]);
        check_word(metric)?;
        let operator_length = if rest[1..].starts_with('=') { 2 } else { 1 };
        let (operator, number) = rest.split_at(operator_length);
        let value: f64 = number.trim().parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(wrong)?;
        let (low, high) = match operator {
            "<" => (f64::NEG_INFINITY, value.next_down()),
            "<=" => (f64::NEG_INFINITY, value),
            ">" => (value.next_up(), f64::INFINITY),
            ">=" => (value, f64::INFINITY),
            _ => (value, value),
        };
        Ok(Self { metric: metric.to_owned(), low, high })
    }
}

/// Which checkpoints of a run are in a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Tags, all of which it has.
    pub tags: Vec<String>,
    /// Least step.
    pub from_step: Option<i64>,
    /// Greatest step.
    pub to_step: Option<i64>,
    /// Stored at this time or later.
    pub created_from: Option<DateTime<Utc>>,
    /// Stored before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// Conditions on metrics, all of which it meets.
    pub bounds: Vec<Bound>,
}

/// A page of a run's checkpoints.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// Which are in the list.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
    /// Where the page before ended; its kind is that of the sort key.
    pub after: Option<Position>,
    /// Items on the page, 1 to 1000.
    pub size: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conditions_are_read() {
        let bounds = Bound::parse_list("val_loss<0.5, acc >= 0.8,a.b=1e-3,x>-2,y<=3").unwrap();
        let admits = |index: usize, value| bounds[index].admits(value);
        assert_eq!(bounds[1].metric, "acc");
        assert!(admits(0, 0.499_999_999) && !admits(0, 0.5));
        assert!(admits(1, 0.8) && !admits(1, 0.799_999));
        assert!(admits(2, 1e-3) && !admits(2, 1.1e-3));
        assert!(admits(3, -1.999_999) && !admits(3, -2.0));
        assert!(admits(4, 3.0) && !admits(4, 3.000_001));
        assert_eq!(Bound::parse_list(""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for bad in ["val_loss", "val_loss<", "<0.5", "a b<1", "a<nan", "a<inf", "a<1,", "a=>1", "a<>1", "a!=1"] {
            assert!(Bound::parse_list(bad).is_err(), "{bad}");
        }
    }

    fn words() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}"
    }

    fn cursors() -> impl Strategy<Value = Cursor> {
        let order = prop_oneof![Just(Order::Ascending), Just(Order::Descending)];
        let finite = prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL;
        let places = prop_oneof![
            (0..i64::MAX).prop_map(|step| (SortKey::Step, Position::Step(step))),
            (0..4_000_000_000_000_000_i64, any::<u128>()).prop_map(|(at, id)| {
                let at = DateTime::from_timestamp_micros(at).expect("in range");
                (SortKey::CreatedAt, Position::CreatedAt(at, Uuid::from_u128(id)))
            }),
            (words(), finite, 0..i64::MAX)
                .prop_map(|(name, value, step)| (SortKey::Metric(name), Position::Metric(value, step))),
        ];
        (order, places).prop_map(|(order, (key, position))| Cursor { sort: Sort { key, order }, position })
    }

    proptest! {
        #[test]
        fn a_page_token_is_read_as_it_was_written(cursor in cursors()) {
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn a_strangers_token_is_no_panic(text in ".{0,60}") {
            let _ = text.parse::<Cursor>();
            let _ = Bound::parse_list(&text);
        }
    }
}
