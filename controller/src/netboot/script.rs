//! Renders the kernel command line of one boot attempt, and the script of the loader that runs it.
//!
//! Three templates: `cmdline.tera`, `ipxe/boot.ipxe.tera` and `grub.cfg.tera`. Their variables are
//! the fields of [`BootContext`], and nothing else; `context` refuses values that would change the
//! meaning of what they stand in. Templates are tried with complete example values when they are
//! loaded, so a wrong name stops haasd at start with file and line and not a node at night.

mod context;

use std::path::{Path, PathBuf};

use haas_api::names::{Mac, NodeName};
use tera::{Context, ErrorKind, Tera};

pub use self::context::BootContext;
use super::boot_target::BootTarget;
use crate::secret::Secret;

/// The kernel's limit on x86 and arm64 is 2048 bytes, the closing NUL included.
pub const MAX_CMDLINE: usize = 2047;

const CMDLINE: &str = "cmdline.tera";
const IPXE: &str = "ipxe/boot.ipxe.tera";
const GRUB: &str = "grub.cfg.tera";

/// The program that is given the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// iPXE.
    Ipxe,
    /// The signed GRUB of nodes with Secure Boot.
    Grub,
}

impl Loader {
    fn template(self) -> &'static str {
        match self {
            Self::Ipxe => IPXE,
            Self::Grub => GRUB,
        }
    }
}

/// Why nothing could be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// A template file is missing or unreadable.
    #[error("cannot read the template {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A template is wrong.
    #[error("{path}:{line}: {message}")]
    Template {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 where Tera names none.
        line: usize,
        /// What is wrong, and the names that would be right.
        message: String,
    },
    /// A value would change the meaning of the line or script that it stands in.
    #[error("{what} of node {node} cannot stand in a boot script: {value:?} {why}")]
    Value {
        /// The node.
        node: NodeName,
        /// The variable.
        what: &'static str,
        /// What it said.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The command line is longer than kernels accept.
    #[error(
        "the kernel command line of node {node} is {length} bytes, more than {MAX_CMDLINE}; shorten the kernel arguments of the image or the node"
    )]
    TooLong {
        /// The node.
        node: NodeName,
        /// Its length, bytes.
        length: usize,
    },
}

/// The templates, loaded and checked.
#[derive(Debug)]
pub struct Templates {
    tera: Tera,
    dir: PathBuf,
}

/// What a node boots, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The loader's script.
    pub script: String,
    /// The kernel command line in it.
    pub cmdline: String,
}

impl Templates {
    /// Reads the templates in `dir` and tries them out.
    pub fn load(dir: &Path) -> Result<Self, ScriptError> {
        let mut tera = Tera::new();
        for name in [CMDLINE, IPXE, GRUB] {
            let path = dir.join(name);
            let text = std::fs::read_to_string(&path)
                .map_err(|source| ScriptError::Read { path: path.clone(), source })?;
            tera.add_raw_template(name, &text).map_err(|e| template_error(dir, name, &e))?;
            refuse_unknown_names(&tera, &path, name, &text)?;
        }
        let templates = Self { tera, dir: dir.to_owned() };
        let (node, full) = example();
        let bare = BootTarget {
            gateway: None,
            overlay: None,
            image_args: Vec::new(),
            node_args: Vec::new(),
            ..full.clone()
        };
        for target in [full, bare] {
            let context = BootContext::new(&target)?;
            for loader in [Loader::Ipxe, Loader::Grub] {
                templates.render_context(&node, &context, loader)?;
            }
        }
        Ok(templates)
    }

    /// Renders what `target` boots, for the program that loads it.
    pub fn render(&self, target: &BootTarget, loader: Loader) -> Result<Rendered, ScriptError> {
        self.render_context(&target.node, &BootContext::new(target)?, loader)
    }

    fn render_context(
        &self,
        node: &NodeName,
        c: &BootContext,
        loader: Loader,
    ) -> Result<Rendered, ScriptError> {
        let fail = |name| move |e: tera::Error| template_error(&self.dir, name, &e);
        let mut context = Context::from_serialize(c).map_err(fail(CMDLINE))?;
        let cmdline = self.tera.render(CMDLINE, &context).map_err(fail(CMDLINE))?;
        let cmdline = cmdline.lines().map(str::trim).filter(|l| !l.is_empty());
        let cmdline = cmdline.collect::<Vec<_>>().join(" ");
        if cmdline.len() > MAX_CMDLINE {
            return Err(ScriptError::TooLong { node: node.clone(), length: cmdline.len() });
        }
        match loader {
            Loader::Ipxe => context.insert("cmdline", &cmdline),
            Loader::Grub => context.insert("cmdline", &in_grubs_quotes(node, &cmdline)?),
        }
        let template = loader.template();
        let script = self.tera.render(template, &context).map_err(fail(template))?;
        Ok(Rendered { script, cmdline })
    }
}

/// The words of a kernel command line so that GRUB's shell leaves them as they are. It hands a word
/// with blanks on in the double quotes that the kernel wants.
fn in_grubs_quotes(node: &NodeName, cmdline: &str) -> Result<String, ScriptError> {
    if cmdline.contains(['\\', '\'']) {
        return Err(ScriptError::Value {
            node: node.clone(),
            what: "the kernel command line",
            value: cmdline.to_owned(),
            why: "has a backslash or a single quote, which GRUB would change",
        });
    }
    let mut is_quoted = false;
    let words = cmdline.split(|c: char| {
        is_quoted ^= c == '"';
        c == ' ' && !is_quoted
    });
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":=._,/@%+-".contains(c);
    let quoted = words.filter(|word| !word.is_empty()).map(|word| {
        let word = word.replace('"', "");
        if word.contains(|c| !is_plain(c)) { format!("'{word}'") } else { word }
    });
    Ok(quoted.collect::<Vec<_>>().join(" "))
}

/// Names in branches that the example does not take would else be found by a node.
fn refuse_unknown_names(
    tera: &Tera,
    path: &Path,
    name: &str,
    text: &str,
) -> Result<(), ScriptError> {
    let (_, target) = example();
    let known = BootContext::new(&target)
        .ok()
        .and_then(|c| Context::from_serialize(&c).ok())
        .unwrap_or_default();
    let used = tera.get_template_variables(name);
    let used = used.map_err(|e| template_error(path.parent().unwrap_or(path), name, &e))?;
    let allowed = |v: &str| known.contains_key(v) || (v == "cmdline" && name != CMDLINE);
    let mut unknown: Vec<&str> = used.into_iter().filter(|v| !allowed(v)).collect();
    unknown.sort_unstable();
    let Some(variable) = unknown.first() else { return Ok(()) };
    Err(ScriptError::Template {
        path: path.to_owned(),
        line: text.lines().position(|l| l.contains(variable)).map_or(0, |i| i + 1),
        message: format!(
            "unknown variable `{variable}`; the variables are the fields of BootContext in controller/src/netboot/script/context.rs"
        ),
    })
}

fn template_error(dir: &Path, name: &str, error: &tera::Error) -> ScriptError {
    let (line, message) = match error.kind() {
        ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => {
            (report.span().start_line, report.message().to_owned())
        }
        _ => (0, error.to_string()),
    };
    ScriptError::Template { path: dir.join(name), line, message }
}

/// A complete example: templates are tried with it, and the golden files show it.
pub(super) fn example() -> (NodeName, BootTarget) {
    let node: NodeName = "n01".parse().expect("a valid name");
    let target = BootTarget {
        boot: "01JDEXAMPLE".into(),
        token: Secret::new("TOKEN".into()),
        node: node.clone(),
        mac: Mac([0x52, 0x54, 0, 0x77, 0, 1]),
        address: "10.77.0.11/24".parse().expect("a valid address"),
        leased: false,
        gateway: Some([10, 77, 0, 254].into()),
        controller: [10, 77, 0, 1].into(),
        http_port: 80,
        api_url: "https://10.77.0.1:8443".into(),
        api_fingerprint: "ab".repeat(32),
        iscsi_port: 3260,
        target: "iqn.2026-11.example.haas:image:0123456789ab".into(),
        initiator: "iqn.2026-11.example.haas:node:n01".into(),
        image: "minimal:latest".into(),
        overlay: Some("alice/dev".into()),
        image_args: vec!["console=ttyS0,115200".into()],
        node_args: vec!["mitigations=off".into()],
        kernel: PathBuf::from("/nonexistent/kernel"),
        initrd: PathBuf::from("/nonexistent/initrd"),
    };
    (node, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates_dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates")
    }

    fn load() -> Templates {
        Templates::load(&templates_dir()).unwrap()
    }

    /// Compares with a golden file; `HAAS_BLESS=1 cargo test` writes it anew.
    fn golden(name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/netboot/golden").join(name);
        if std::env::var_os("HAAS_BLESS").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, expected, "{name} differs; HAAS_BLESS=1 writes it anew");
    }

    #[test]
    fn the_templates_render_to_their_golden_files() {
        let rendered = load().render(&example().1, Loader::Ipxe).unwrap();
        golden("boot.ipxe", &rendered.script);
        golden("cmdline", &format!("{}\n", rendered.cmdline));
        let ram = BootTarget { overlay: None, gateway: None, http_port: 8080, ..example().1 };
        golden("boot-ram.ipxe", &load().render(&ram, Loader::Ipxe).unwrap().script);
        golden("grub.cfg", &load().render(&ram, Loader::Grub).unwrap().script);
    }

    #[test]
    fn grub_is_given_words_that_its_shell_does_not_change() {
        let (node, _) = example();
        let quoted = |cmdline| in_grubs_quotes(&node, cmdline);
        assert_eq!(quoted("ro overlay= x=$y;z").unwrap(), "ro overlay= 'x=$y;z'");
        let spaced = quoted("a dyndbg=\"file a.c +p\" b").unwrap();
        assert_eq!(spaced, "a 'dyndbg=file a.c +p' b");
        for bad in ["a\\b", "it's"] {
            let error = quoted(bad).unwrap_err().to_string();
            assert!(error.contains("n01") && error.contains("GRUB"), "{error}");
        }
    }

    #[test]
    fn the_command_line_has_the_form_that_stock_dracut_and_our_agent_read() {
        let line = load().render(&example().1, Loader::Ipxe).unwrap().cmdline;
        assert_eq!(
            line,
            format!(
                "ip=10.77.0.11::10.77.0.254:255.255.255.0:n01:bootnet:none ifname=bootnet:52:54:00:77:00:01 \
                 BOOTIF=01-52-54-00-77-00-01 rd.neednet=1 \
                 netroot=iscsi:10.77.0.1::3260:0:iqn.2026-11.example.haas:image:0123456789ab \
                 rd.iscsi.initiator=iqn.2026-11.example.haas:node:n01 ro overlay=alice/dev \
                 haas.url=https://10.77.0.1:8443 haas.fp={} haas.token=TOKEN console=ttyS0,115200 mitigations=off",
                "ab".repeat(32)
            )
        );
        let ram = load()
            .render(&BootTarget { overlay: None, ..example().1 }, Loader::Ipxe)
            .unwrap()
            .cmdline;
        assert!(ram.contains(" ro overlay= haas.url="), "{ram}");
        let leased = load()
            .render(&BootTarget { leased: true, ..example().1 }, Loader::Ipxe)
            .unwrap()
            .cmdline;
        assert_eq!(
            leased,
            line.replace("haas.token=TOKEN", "haas.token=TOKEN haas.address=leased")
        );
    }

    #[test]
    fn an_undefined_variable_fails_at_load_with_file_and_line_also_in_a_branch_not_taken() {
        for wrong in
            ["ro\n{{ adress }}", "ro\n{% if not node %}{{ adress }}{% endif %}", "ro\n{{ node.x }}"]
        {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("ipxe")).unwrap();
            for name in [IPXE, GRUB] {
                std::fs::copy(templates_dir().join(name), dir.path().join(name)).unwrap();
            }
            std::fs::write(dir.path().join(CMDLINE), wrong).unwrap();
            let error = Templates::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("cmdline.tera:2: "), "{wrong:?}: {error}");
        }
        let missing = Templates::load(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/cmdline.tera"), "{missing}");
    }

    #[test]
    fn a_value_that_would_add_a_line_a_command_or_our_own_words_is_refused() {
        let templates = load();
        for bad in [
            "a\nboot",
            "a\rb",
            "a\0",
            "",
            " ",
            "x ${net0/mac}",
            "a || shell",
            "a && b",
            "; shell",
            "#x",
            "haas.token=mine",
            "quiet ip=dhcp",
            "overlay=bob/x",
            "ä",
        ] {
            for target in [
                BootTarget { node_args: vec![bad.into()], ..example().1 },
                BootTarget { image_args: vec![bad.into()], ..example().1 },
            ] {
                let error = templates.render(&target, Loader::Ipxe).unwrap_err();
                assert!(matches!(error, ScriptError::Value { .. }), "{bad:?}: {error}");
            }
            let target = BootTarget { image: format!("x {bad}"), ..example().1 };
            assert!(templates.render(&target, Loader::Ipxe).is_err(), "{bad:?}");
        }
        let token = BootTarget { token: Secret::new("se cret".into()), ..example().1 };
        let error = templates.render(&token, Loader::Ipxe).unwrap_err().to_string();
        assert!(!error.contains("cret\""), "{error}");
        let fine = BootTarget { node_args: vec!["dyndbg=\"file a.c +p\"".into()], ..example().1 };
        assert!(
            templates
                .render(&fine, Loader::Ipxe)
                .unwrap()
                .cmdline
                .ends_with("dyndbg=\"file a.c +p\"")
        );
    }

    #[test]
    fn a_command_line_longer_than_the_kernel_takes_is_an_error() {
        let base = load().render(&example().1, Loader::Ipxe).unwrap().cmdline.len();
        let with = |n: usize| BootTarget {
            node_args: vec!["mitigations=off".into(), "x".repeat(n)],
            ..example().1
        };
        let fits = MAX_CMDLINE - base - 1;
        assert_eq!(load().render(&with(fits), Loader::Ipxe).unwrap().cmdline.len(), MAX_CMDLINE);
        let error = load().render(&with(fits + 1), Loader::Ipxe).unwrap_err().to_string();
        assert!(error.contains("2048 bytes") && error.contains("n01"), "{error}");
    }
}
