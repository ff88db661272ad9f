//! `?where=`: which nodes somebody means, by what is known of them. `memory>=64G and rack==r1`.
//!
//! Pure. `parse` makes a [`Condition`] of a text, or says where it is wrong; `fields` knows what can be
//! asked of a node. What is asked of is the node as the caller may see it, so that nobody finds out by
//! asking what he is not shown.

mod fields;
mod parse;

use std::collections::BTreeSet;

use haas_api::{hardware::Inventory, node::Node};

use self::fields::{Field, Value};

/// A condition that is understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition(Expr);

/// Why a text is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("where: {what} (at character {at})")]
pub struct ConditionError {
    at: usize,
    what: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    Compare(Compare),
}

#[derive(Debug, Clone, PartialEq)]
struct Compare {
    field: Field,
    how: How,
    /// What the field is compared with: text in lower case, or a number.
    with: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
}

impl Condition {
    /// Understands a text. `labels` are the keys of labels that nodes have: one of them is a field too.
    ///
    /// # Errors
    /// With the first place that makes no sense, and what would.
    pub fn parse(text: &str, labels: &BTreeSet<String>) -> Result<Self, ConditionError> {
        parse::condition(text, labels).map(Self)
    }

    /// Whether it asks for more of the hardware than lists have.
    pub fn needs_inventory(&self) -> bool {
        fn needs(expr: &Expr) -> bool {
            match expr {
                Expr::Or(list) | Expr::And(list) => list.iter().any(needs),
                Expr::Not(expr) => needs(expr),
                Expr::Compare(compare) => compare.field.needs_inventory(),
            }
        }
        needs(&self.0)
    }

    /// Whether it holds for a node.
    pub fn holds(&self, node: &Node, inventory: Option<&Inventory>) -> bool {
        self.0.holds(node, inventory)
    }
}

impl Expr {
    fn holds(&self, node: &Node, inventory: Option<&Inventory>) -> bool {
        match self {
            Self::Or(list) => list.iter().any(|expr| expr.holds(node, inventory)),
            Self::And(list) => list.iter().all(|expr| expr.holds(node, inventory)),
            Self::Not(expr) => !expr.holds(node, inventory),
            Self::Compare(compare) => compare.holds(&compare.field.of(node, inventory)),
        }
    }
}

impl Compare {
    /// Whether it holds for one of the field's values; `!=` for all of them.
    fn holds(&self, values: &[Value]) -> bool {
        let one = |value: &Value| match (value, &self.with) {
            (Value::Number(is), Value::Number(with)) => match self.how {
                How::Equal | How::NotEqual => is == with,
                How::Less => is < with,
                How::AtMost => is <= with,
                How::Greater => is > with,
                How::AtLeast => is >= with,
                How::Contains => false,
            },
            (Value::Text(is), Value::Text(with)) => {
                let is = is.to_lowercase();
                match self.how {
                    How::Equal | How::NotEqual => is == *with,
                    How::Less => is < *with,
                    How::AtMost => is <= *with,
                    How::Greater => is > *with,
                    How::AtLeast => is >= *with,
                    How::Contains => is.contains(with.as_str()),
                }
            }
            (Value::Number(_), Value::Text(_)) | (Value::Text(_), Value::Number(_)) => false,
        };
        match self.how {
            How::NotEqual => !values.iter().any(one),
            _ => values.iter().any(one),
        }
    }
}

#[cfg(test)]
mod tests;
