//! Signed links: `pailfs url` and `pailfs ls --signed-url`, used by curl.

use crate::keys;
use crate::on_all_stores;
use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::command::{Done, has_program};
use crate::support::store::Store;

on_all_stores!(links_read_every_key, links_write_every_key);
on_the_embedded_store!(
    links_are_made_without_a_request,
    a_link_without_its_signature_is_worth_nothing,
    lifetimes_have_limits,
);

/// `--path-as-is`: curl would take `..` for its own.
fn curl(shell: &Shell, arguments: &[&str]) -> Done {
    shell
        .tool("curl")
        .args(["--silent", "--show-error", "--fail", "--path-as-is"])
        .args(arguments)
        .output()
}

fn links_read_every_key(store: &Store) {
    if !has_program("curl") {
        return;
    }
    let shell = Shell::new(store);
    for key in keys::odd(store) {
        store.bucket.put(key, key);
        let link = shell.run(&["url", &shell.at_key(key)]);
        assert_eq!(curl(&shell, &[link.trim_end()]).success(), key);
    }
    let listing = shell.json(&["ls", "--json", "--recursive", "--signed-url", &shell.at_key("")]);
    schema::check("ls", &listing);
    for entry in listing.as_array().expect("an array") {
        let link = entry["signedUrl"].as_str().expect("a link");
        assert_eq!(
            curl(&shell, &[link]).success(),
            entry["name"].as_str().expect("a name")
        );
    }
    let lines = shell.run(&["ls", "--signed-url", "--expires", "1h", &shell.at_key("plain")]);
    let (name, link) = lines.trim_end().split_once('\t').expect("two columns");
    assert_eq!(name, "plain.txt");
    assert!(link.contains("X-Amz-Expires=3600"), "{link}");
}

fn links_write_every_key(store: &Store) {
    if !has_program("curl") {
        return;
    }
    let shell = Shell::new(store);
    for key in keys::odd(store).into_iter().filter(|key| !key.ends_with('/')) {
        shell.write("file", key.as_bytes());
        let link = shell.json(&["url", "--put", "--json", &shell.at_key(key)]);
        schema::check("url", &link);
        assert_eq!(link["method"], "PUT");
        curl(
            &shell,
            &[
                "--upload-file",
                "file",
                link["signedUrl"].as_str().expect("a link"),
            ],
        )
        .success();
        assert_eq!(store.bucket.get(key), key.as_bytes());
    }
}

fn links_are_made_without_a_request(store: &Store) {
    let shell = Shell::new(store);
    store.server().counts().reset();
    let link = shell.json(&["url", "--json", &shell.at_key("is not there")]);
    schema::check("url", &link);
    assert_eq!(store.server().counts().total(), 0);
    // Nor when nobody listens.
    let nowhere = Shell::at("http://127.0.0.1:9", "bucket");
    assert!(
        nowhere
            .run(&["url", "s3://bucket/key"])
            .contains("127.0.0.1:9/bucket/key?")
    );
}

fn a_link_without_its_signature_is_worth_nothing(store: &Store) {
    if !has_program("curl") {
        return;
    }
    let shell = Shell::new(store);
    store.bucket.put("secret", "data");
    let link = shell.run(&["url", &shell.at_key("secret")]);
    let (address, query) = link.trim_end().split_once('?').expect("signed");
    for forged in [
        address.to_owned(),
        format!("{}?{query}", address.replace("secret", "other")),
        format!(
            "{address}?{}",
            query.replace("X-Amz-Expires=300", "X-Amz-Expires=301")
        ),
    ] {
        let done = curl(&shell, &[&forged]);
        assert!(
            !done.status.success() && done.stderr.contains("403"),
            "{forged}: {done:?}"
        );
    }
}

fn lifetimes_have_limits(store: &Store) {
    let shell = Shell::new(store);
    let key = shell.at_key("key");
    assert!(
        shell
            .run(&["url", "--expires", "7d", &key])
            .contains("X-Amz-Expires=604800")
    );
    shell.output(&["url", "--expires", "8d", &key]).fails(2, "7 days");
    shell
        .output(&["url", "--expires", "0s", &key])
        .fails(2, "one second");
    shell
        .output(&["url", "--no-sign-request", &key])
        .fails(2, "needs credentials");
    shell.output(&["url", &shell.at_key("")]).fails(2, "is a bucket");
    // Credentials that expire before the link does.
    let script = r#"
        cat > credentials <<'END'
#!/bin/sh
echo '{"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": "T", "Expiration": "'$(date -u -d '+2 minutes' +%Y-%m-%dT%H:%M:%SZ)'"}'
END
        chmod +x credentials
        mkdir ../.aws
        printf '[profile short]\ncredential_process = %s/credentials\n' "$PWD" > ../.aws/config
        unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
        pailfs url --profile short --expires 1h s3://$BUCKET/key
        pailfs url --profile short --expires 1m s3://$BUCKET/key 2> second
        ! test -s second
    "#;
    let done = shell.script(script);
    assert!(
        done.stderr.contains("warning") && done.stderr.contains("expire"),
        "{done:?}"
    );
    assert!(done.success().contains("X-Amz-Security-Token=T"));
}
