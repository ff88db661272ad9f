//! Escapes, as ssh and ipmitool have them: `~` and a letter, at the beginning of a line.

/// What `~?` shows.
pub(super) const HELP: &str = "\
at the beginning of a line:
  ~.   end
  ~t   take over: type, and have the BMC's console from another session
  ~B   send a BREAK, which Linux takes for SysRq
  ~w   who is here
  ~^Z  suspend haasctl
  ~~   type a ~
  ~?   this";

const SUSPEND: u8 = 0x1A;

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// For the node.
    Keys(Vec<u8>),
    End,
    Take,
    Break,
    Who,
    Suspend,
    Help,
}

/// Finds them, however keys come in pieces.
#[derive(Debug)]
pub(super) struct Escapes {
    at_line_start: bool,
    after_tilde: bool,
}

impl Default for Escapes {
    fn default() -> Self {
        Self { at_line_start: true, after_tilde: false }
    }
}

impl Escapes {
    pub(super) fn feed(&mut self, keys: &[u8]) -> Vec<Typed> {
        let mut typed = Vec::new();
        let mut plain = Vec::new();
        for key in keys {
            if std::mem::take(&mut self.after_tilde) {
                let escape = match key {
                    b'.' => Some(Typed::End),
                    b't' => Some(Typed::Take),
                    b'B' => Some(Typed::Break),
                    b'w' => Some(Typed::Who),
                    b'?' => Some(Typed::Help),
                    &SUSPEND => Some(Typed::Suspend),
                    _ => None,
                };
                if let Some(escape) = escape {
                    if !plain.is_empty() {
                        typed.push(Typed::Keys(std::mem::take(&mut plain)));
                    }
                    typed.push(escape);
                    continue;
                }
                plain.push(b'~');
                if *key == b'~' {
                    self.at_line_start = false;
                    continue;
                }
            } else if self.at_line_start && *key == b'~' {
                self.after_tilde = true;
                continue;
            }
            plain.push(*key);
            self.at_line_start = matches!(key, b'\r' | b'\n');
        }
        if !plain.is_empty() {
            typed.push(Typed::Keys(plain));
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Typed {
        Typed::Keys(text.as_bytes().to_vec())
    }

    #[test]
    fn escapes_are_found_at_the_beginning_of_lines_only() {
        for (text, typed) in [
            ("~.", vec![Typed::End]),
            ("ls\r~.", vec![keys("ls\r"), Typed::End]),
            ("ls ~.", vec![keys("ls ~.")]),
            ("~?~t", vec![Typed::Help, Typed::Take]),
            ("~~.\r", vec![keys("~.\r")]),
            ("~x", vec![keys("~x")]),
            ("~\r~.", vec![keys("~\r"), Typed::End]),
            ("a\n~Bh~w", vec![keys("a\n"), Typed::Break, keys("h~w")]),
            ("~\u{1a}", vec![Typed::Suspend]),
        ] {
            assert_eq!(Escapes::default().feed(text.as_bytes()), typed, "{text:?}");
            let mut escapes = Escapes::default();
            let single: Vec<_> = text.bytes().flat_map(|key| escapes.feed(&[key])).collect();
            let count =
                |typed: &[Typed]| typed.iter().filter(|t| !matches!(t, Typed::Keys(_))).count();
            assert_eq!(count(&single), count(&typed), "{text:?}, key by key");
        }
    }
}
