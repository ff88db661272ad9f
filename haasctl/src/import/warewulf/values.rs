//! YAML values as Warewulf reads and merges them.

use serde_norway::{Mapping, Value};

/// Lays a mapping over another: mappings join, lists add up, other values replace.
pub(super) fn merge(below: &mut Mapping, over: &Mapping) {
    for (key, value) in over {
        match (below.get_mut(key), value) {
            (Some(Value::Mapping(below)), Value::Mapping(over)) => merge(below, over),
            (Some(Value::Sequence(below)), Value::Sequence(over)) => {
                below.extend(over.iter().cloned());
            }
            // An empty value says nothing.
            (Some(_), value) if is_empty(value) => {}
            (_, value) => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

/// A scalar as text; none if it is none, or one of Warewulf's words for "not set".
pub(super) fn word(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => return None,
    };
    let unset = ["", "--", "UNDEF", "UNSET", "DELETE"].contains(&text.as_str());
    (!unset).then_some(text)
}

/// The words of a scalar or of a list of scalars, without those that `~WORD` takes away.
pub(super) fn list(value: Option<&Value>) -> Vec<String> {
    let words: Vec<String> = match value {
        Some(Value::Sequence(items)) => items.iter().filter_map(word).collect(),
        Some(value) => word(value).into_iter().collect(),
        None => Vec::new(),
    };
    let gone: Vec<_> = words.iter().filter_map(|w| w.strip_prefix('~')).collect();
    let kept = words.iter().filter(|w| !w.starts_with('~') && !gone.contains(&w.as_str()));
    kept.cloned().collect()
}
