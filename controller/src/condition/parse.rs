//! From a text to an expression, by recursive descent:
//!
//! ```text
//! or      = and { "or" and }
//! and     = not { "and" not }
//! not     = "not" not | "(" or ")" | compare
//! compare = FIELD ("==" | "=" | "!=" | "<" | "<=" | ">" | ">=" | "~") VALUE
//! ```

use std::collections::BTreeSet;

use super::{
    Compare, ConditionError, Expr, How,
    fields::{FIELDS, Field, Kind, Value},
};

/// The longest text, in characters, and how deep it may be nested.
const LONGEST: usize = 2_000;
const DEEPEST: usize = 32;

const COMPARISONS: &str = "==, !=, <, <=, >, >= or ~";

pub(super) fn condition(text: &str, labels: &BTreeSet<String>) -> Result<Expr, ConditionError> {
    if text.chars().count() > LONGEST {
        return wrong(1, format!("it has more than {LONGEST} characters"));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens, at: 0, labels, end: text.chars().count() + 1 };
    let expr = parser.or(0)?;
    match parser.next() {
        None => Ok(expr),
        Some((at, token)) => {
            wrong(at, format!("{token} is not expected here; expected and, or, or the end"))
        }
    }
}

fn wrong<T>(at: usize, what: impl Into<String>) -> Result<T, ConditionError> {
    Err(ConditionError { at, what: what.into() })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A bare word: a field, a keyword or a value.
    Word(String),
    /// Text in quotes.
    Quoted(String),
    Compare(How),
    Open,
    Close,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(text) | Self::Quoted(text) => write!(f, "{text:?}"),
            Self::Compare(how) => f.write_str(match how {
                How::Equal => "==",
                How::NotEqual => "!=",
                How::Less => "<",
                How::AtMost => "<=",
                How::Greater => ">",
                How::AtLeast => ">=",
                How::Contains => "~",
            }),
            Self::Open => f.write_str("("),
            Self::Close => f.write_str(")"),
        }
    }
}

/// The tokens with their places, counted in characters from 1.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ConditionError> {
    let mut chars = (1..).zip(text.chars()).peekable();
    let mut tokens = Vec::new();
    while let Some((at, c)) = chars.next() {
        let mut follows = |wanted: char| chars.next_if(|(_, c)| *c == wanted).is_some();
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '~' => Token::Compare(How::Contains),
            '=' => {
                follows('=');
                Token::Compare(How::Equal)
            }
            '!' if follows('=') => Token::Compare(How::NotEqual),
            '<' if follows('=') => Token::Compare(How::AtMost),
            '<' => Token::Compare(How::Less),
            '>' if follows('=') => Token::Compare(How::AtLeast),
            '>' => Token::Compare(How::Greater),
            '"' | '\'' => {
                let mut text = String::new();
                loop {
                    match chars.next() {
                        Some((_, end)) if end == c => break,
                        Some((_, other)) => text.push(other),
                        None => {
                            return wrong(
                                at,
                                format!("the text that begins here has no end; expected {c}"),
                            );
                        }
                    }
                }
                Token::Quoted(text)
            }
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some((_, c)) = chars.next_if(|(_, c)| is_word(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
            c => {
                return wrong(
                    at,
                    format!("{c:?} means nothing here; put a value with it in quotes"),
                );
            }
        };
        tokens.push((at, token));
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "._:/@%+-".contains(c)
}

struct Parser<'a> {
    tokens: Vec<(usize, Token)>,
    at: usize,
    labels: &'a BTreeSet<String>,
    /// The place behind the last character.
    end: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<(usize, Token)> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn takes(&mut self, keyword: &str) -> bool {
        let found = matches!(self.tokens.get(self.at),
            Some((_, Token::Word(word))) if word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(found);
        found
    }

    fn or(&mut self, depth: usize) -> Result<Expr, ConditionError> {
        let mut list = vec![self.and(depth)?];
        while self.takes("or") {
            list.push(self.and(depth)?);
        }
        Ok(one_or(list, Expr::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Expr, ConditionError> {
        let mut list = vec![self.not(depth)?];
        while self.takes("and") {
            list.push(self.not(depth)?);
        }
        Ok(one_or(list, Expr::And))
    }

    fn not(&mut self, depth: usize) -> Result<Expr, ConditionError> {
        let place = self.tokens.get(self.at).map_or(self.end, |(at, _)| *at);
        if depth > DEEPEST {
            return wrong(place, format!("it is nested more than {DEEPEST} times"));
        }
        if self.takes("not") {
            return Ok(Expr::Not(Box::new(self.not(depth + 1)?)));
        }
        match self.next() {
            Some((at, Token::Open)) => {
                let inner = self.or(depth + 1)?;
                match self.next() {
                    Some((_, Token::Close)) => Ok(inner),
                    Some((other, token)) => wrong(
                        other,
                        format!("{token} is not expected here; expected and, or, or )"),
                    ),
                    None => wrong(at, "the ( that stands here is not closed"),
                }
            }
            Some((at, Token::Word(word))) => self.compare(at, &word),
            Some((at, token)) => {
                wrong(at, format!("{token} is not expected here; expected a field"))
            }
            None => wrong(self.end, "it ends too early; expected a field, such as memory>=64G"),
        }
    }

    fn compare(&mut self, at: usize, name: &str) -> Result<Expr, ConditionError> {
        let field = self.field(at, name)?;
        let how = match self.next() {
            Some((_, Token::Compare(how))) => how,
            Some((at, token)) => {
                return wrong(at, format!("{token} is no comparison; expected {COMPARISONS}"));
            }
            None => {
                return wrong(
                    self.end,
                    format!("{name} is compared with nothing; expected {COMPARISONS}"),
                );
            }
        };
        let (at, text) = match self.next() {
            Some((at, Token::Word(text) | Token::Quoted(text))) => (at, text),
            Some((at, token)) => return wrong(at, format!("{token} is no value")),
            None => {
                return wrong(
                    self.end,
                    format!("{name} is compared with nothing; expected a value"),
                );
            }
        };
        let with = value(at, name, field.kind(), how, &text)?;
        Ok(Expr::Compare(Compare { field, how, with }))
    }

    fn field(&self, at: usize, name: &str) -> Result<Field, ConditionError> {
        if let Some(known) = FIELDS.iter().find(|known| known.name == name) {
            return Ok(Field::Known(known));
        }
        if let Some(key) = name.strip_prefix("label.") {
            return Ok(Field::Label(key.to_owned()));
        }
        if self.labels.contains(name) {
            return Ok(Field::Label(name.to_owned()));
        }
        let mut fields: Vec<_> = FIELDS.iter().map(|known| known.name).collect();
        fields.extend(self.labels.iter().map(String::as_str));
        wrong(
            at,
            format!(
                "there is no field {name:?} and no node has such a label; there are: {}",
                fields.join(", ")
            ),
        )
    }
}

fn one_or(mut list: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Expr {
    match list.len() {
        1 => list.remove(0),
        _ => join(list),
    }
}

fn value(at: usize, name: &str, kind: Kind, how: How, text: &str) -> Result<Value, ConditionError> {
    let no_number = |right: &str| wrong(at, format!("{name}: {text:?} is not {right}"));
    if how == How::Contains && !matches!(kind, Kind::Text) {
        return wrong(at, format!("{name} is no text; ~ looks for a part of a text"));
    }
    match kind {
        Kind::Text => Ok(Value::Text(text.to_lowercase())),
        Kind::Word(words) => {
            if !matches!(how, How::Equal | How::NotEqual) {
                return wrong(at, format!("{name} is a word; it is equal (==) or not (!=)"));
            }
            let text = text.to_lowercase();
            match words.contains(&text.as_str()) {
                true => Ok(Value::Text(text)),
                false => wrong(
                    at,
                    format!("{name} is never {text:?}; it is one of: {}", words.join(", ")),
                ),
            }
        }
        Kind::Count => match text.parse() {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => no_number("a whole number, such as 16"),
        },
        Kind::Bytes => match amount(text, 1 << 10, &["iB", ""], "B") {
            Some(number) => Ok(Value::Number(number)),
            None => no_number("a size: 64G and 64GiB are 64 * 2^30 bytes, 64GB are 64 * 10^9"),
        },
        Kind::Rate => match amount(text, 1_000, &["bit/s", "b", ""], "bit/s") {
            Some(number) => Ok(Value::Number(number)),
            None => no_number("a rate in bits per second, such as 10G"),
        },
    }
}

/// A number with a prefix K, M, G, T or P, counted in `base` with one of the endings, or in thousands
/// with `decimal`.
fn amount(text: &str, base: u64, endings: &[&str], decimal: &str) -> Option<u64> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let (prefix, ending) = match unit.chars().next() {
        Some(c) if c.is_ascii_alphabetic() => unit.split_at_checked(1)?,
        _ => ("", unit),
    };
    let power = match prefix.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        // Bytes without a prefix.
        "B" if ending.is_empty() => 0,
        _ => return None,
    };
    let base = if endings.contains(&ending) {
        base
    } else if ending == decimal {
        1_000
    } else {
        return None;
    };
    let factor = base.checked_pow(power)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 6 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let part = match fraction {
        "" => 0,
        digits => {
            let scale = 10_u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
            u64::try_from(digits.parse::<u128>().ok()? * u128::from(factor) / scale).ok()?
        }
    };
    whole.checked_add(part)
}
