//! The layer rule of `src/lib.rs`, read off the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Code under `root` must not mention any of `forbidden`.
struct Rule {
    root: &'static str,
    forbidden: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        root: "crates/barycenter-core/src",
        forbidden: &[
            "tokio",
            "axum",
            "sqlx",
            "object_store",
            "utoipa",
            "reqwest",
            "barycenter_api",
            "std::env",
            "SystemTime",
            "chrono",
        ],
    },
    Rule {
        root: "crates/barycenter-api/src",
        forbidden: &["axum", "sqlx", "object_store", "barycenter_core", "barycenter_worker", "barycenter_cli"],
    },
    Rule { root: "crates/barycenter-worker/src", forbidden: &["axum", "sqlx", "object_store", "barycenter"] },
    Rule { root: "crates/barycenter-cli/src", forbidden: &["axum", "sqlx", "object_store", "barycenter"] },
    Rule {
        root: "src/domain",
        forbidden: &[
            "sqlx",
            "axum",
            "object_store",
            "barycenter_api",
            "barycenter_core",
            "crate::app",
            "crate::db",
            "crate::http",
            "crate::state",
            "crate::storage",
        ],
    },
    Rule {
        root: "src/db",
        forbidden: &[
            "axum",
            "object_store",
            "barycenter_api",
            "barycenter_core",
            "crate::app",
            "crate::http",
            "crate::state",
            "crate::storage",
        ],
    },
    Rule {
        root: "src/storage",
        forbidden: &[
            "axum",
            "sqlx",
            "barycenter_api",
            "barycenter_core",
            "crate::app",
            "crate::db",
            "crate::http",
            "crate::state",
        ],
    },
    Rule { root: "src/app", forbidden: &["axum", "crate::http", "object_store", "utoipa"] },
    Rule { root: "src/http", forbidden: &["sqlx", "object_store", "candle_core", "crate::db", "crate::storage"] },
];

#[test]
fn no_layer_imports_what_it_must_not() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut violations = Vec::new();
    for rule in RULES {
        let files = rust_files(&workspace.join(rule.root));
        assert!(!files.is_empty(), "{} holds no Rust files: the rule checks nothing", rule.root);
        for file in files {
            let source = fs::read_to_string(&file).expect("a listed file can be read");
            let found = violations_in(&source, rule.forbidden);
            violations.extend(found.into_iter().map(|violation| format!("{}:{violation}", file.display())));
        }
    }
    assert!(violations.is_empty(), "forbidden imports:\n{}", violations.join("\n"));
}

#[test]
fn a_planted_violation_is_found_however_it_is_written() {
    let forbidden = &["sqlx", "crate::db"];
    for planted in [
        "use sqlx::PgPool;",
        "let pool = sqlx::PgPool::connect(url);",
        "use crate::db::runs;",
        "use crate::{app, db};",
        "use crate::{\n    app::{self, blobs},\n    db::runs,\n};",
        "async fn f() { crate::db::runs::find(x).await }",
        "use ::sqlx as database;",
    ] {
        assert_eq!(violations_in(planted, forbidden).len(), 1, "{planted}");
    }
    for innocent in ["use crate::app::db_like;", "// use sqlx::PgPool;", "use my_sqlx::Pool;", "use crate::{app::db};"]
    {
        assert!(violations_in(innocent, forbidden).is_empty(), "{innocent}");
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// `line: path` of every forbidden path that the source mentions.
fn violations_in(source: &str, forbidden: &[&str]) -> Vec<String> {
    let without_comments: Vec<&str> = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = without_comments.join("\n");
    let mut found = Vec::new();
    for path in forbidden {
        let mentioned = mentions(&code, path).or_else(|| {
            let module = path.strip_prefix("crate::")?;
            grouped_imports(&code).find(|(_, group)| first_segments(group).contains(&module)).map(|(at, _)| at)
        });
        if let Some(at) = mentioned {
            found.push(format!("{}: {path}", code[..at].matches('\n').count() + 1));
        }
    }
    found
}

/// Where `path` stands as the beginning of a path (`path::…`) or as an import of its own.
fn mentions(code: &str, path: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(path).map(|(at, _)| at).find(|at| {
        let before = &code[..*at];
        let after = &code[at + path.len()..];
        let leading = before.strip_suffix("::").unwrap_or(before);
        let starts_path = !before.ends_with(is_word) && (leading.len() == before.len() || !leading.ends_with(is_word));
        let continues = after.starts_with("::");
        let imported = leading.trim_end().ends_with("use") && !after.starts_with(is_word);
        let ends_import = path.contains("::") && !after.starts_with(is_word);
        starts_path && (continues || imported || ends_import)
    })
}

/// The insides of every `crate::{…}`, with where they begin.
fn grouped_imports(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.match_indices("crate::{").map(|(at, opening)| {
        let inside = &code[at + opening.len()..];
        let mut depth = 1;
        let end = inside.find(|c| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        (at, &inside[..end.unwrap_or(inside.len())])
    })
}

/// The first segment of every path in a group: `app::{self, blobs}, db::runs` gives `app`, `db`.
fn first_segments(group: &str) -> Vec<&str> {
    let mut depth = 0;
    let paths = group.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    paths.map(|path| path.trim().split("::").next().unwrap_or_default().trim()).collect()
}

#[test]
fn what_users_build_has_no_fail_points() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let words = ["tree", "--offline", "--locked", "--edges", "no-dev", "--prefix", "none", "--format", "{p} [{f}]"];
    let output = std::process::Command::new(cargo).args(words).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let of = |name: &str| text.lines().find(|line| line.starts_with(name)).map(|line| line.ends_with("[]"));
    assert_eq!(of("barycenter-faults "), Some(true), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(of("fail "), None);
}
