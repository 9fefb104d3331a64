//! What is printed as JSON is what `docs/commands.schema.json` says.

use crate::support::command::Tool;
use crate::support::server::find_tool;
use serde_json::Value;
use std::path::Path;

const CHECK: &str = r##"
import json, sys, jsonschema
schema = json.load(open(sys.argv[1]))
part = {"$schema": schema["$schema"], "$defs": schema["$defs"], "$ref": "#/$defs/" + sys.argv[2]}
kind = jsonschema.validators.validator_for(schema)
kind.check_schema(schema)
errors = list(kind(part).iter_errors(json.load(open(sys.argv[3]))))
for error in errors:
    print(error.json_path, error.message)
sys.exit(1 if errors else 0)
"##;

/// Checks `document` against the part of the schema that is about `what`.
#[track_caller]
pub fn check(what: &str, document: &Value) {
    if let Some(errors) = errors(what, document) {
        assert_eq!(errors, "", "{what}: {document:#}");
    }
}

/// What is wrong with it; `None` where the checker is missing.
fn errors(what: &str, document: &Value) -> Option<String> {
    let moto = find_tool("PAILFS_TEST_MOTO", "moto_server")?;
    let python = moto.with_file_name("python");
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.schema.json");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    serde_json::to_writer(&mut file, document).expect("written");
    let tool = Tool::new(python)
        .args(["-c", CHECK])
        .arg(schema)
        .arg(what)
        .arg(file.path());
    let done = tool.output();
    assert!(
        matches!(done.status.code(), Some(0 | 1)) && done.stderr.is_empty(),
        "the checker failed: {done:#?}"
    );
    Some(done.stdout)
}

#[test]
fn the_schema_refuses_what_commands_never_print() {
    let wrong =
        serde_json::json!([{"name": "k", "size": -1, "lastModified": "yesterday", "url": "", "more": 1}]);
    if let Some(errors) = errors("ls", &wrong) {
        for part in ["size", "lastModified", "signedUrl", "more"] {
            assert!(errors.contains(part), "{errors}");
        }
    }
}
