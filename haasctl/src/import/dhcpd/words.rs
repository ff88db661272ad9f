//! The words of dhcpd.conf: what stands between spaces, quotes and punctuation.

use crate::import::draft::Problems;

/// A word, or one of `{`, `}`, `;` and `,`, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) line: usize,
    pub(super) text: String,
    /// In quotes it is no punctuation and no keyword.
    pub(super) quoted: bool,
}

impl Word {
    pub(super) fn is(&self, text: &str) -> bool {
        !self.quoted && self.text.eq_ignore_ascii_case(text)
    }
}

/// The words of a file.
pub(super) fn words(text: &str, problems: &mut Problems) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut line = 1;
    let mut chars = text.chars().peekable();
    let mut word = String::new();
    let flush = |word: &mut String, words: &mut Vec<Word>, line| {
        if !word.is_empty() {
            words.push(Word { line, text: std::mem::take(word), quoted: false });
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '#' => {
                flush(&mut word, &mut words, line);
                while chars.next_if(|c| *c != '\n').is_some() {}
            }
            '"' => {
                flush(&mut word, &mut words, line);
                let (start, mut text) = (line, String::new());
                loop {
                    match chars.next() {
                        None => {
                            problems.add(start, "a quote is opened and not closed");
                            break;
                        }
                        Some('"') => break,
                        Some('\\') => text.extend(chars.next()),
                        Some(c) => {
                            line += usize::from(c == '\n');
                            text.push(c);
                        }
                    }
                }
                words.push(Word { line: start, text, quoted: true });
            }
            '{' | '}' | ';' | ',' => {
                flush(&mut word, &mut words, line);
                words.push(Word { line, text: c.to_string(), quoted: false });
            }
            c if c.is_whitespace() => {
                flush(&mut word, &mut words, line);
                line += usize::from(c == '\n');
            }
            c => word.push(c),
        }
    }
    flush(&mut word, &mut words, line);
    words
}
