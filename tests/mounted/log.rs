//! What a failed operation leaves in the log, whatever the program was told.

use crate::support::files::{self, errno};
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};
use std::fs;

crate::on_the_embedded_store!(every_refusal_leaves_a_line_with_key_code_and_request_id);

fn every_refusal_leaves_a_line_with_key_code_and_request_id(store: &Store) {
    store.bucket.put("dir/secret", "x");
    let codes = [
        ("KMS.DisabledException", libc::EACCES),
        ("InvalidRequest", libc::EINVAL),
        ("InvalidObjectState", libc::EIO),
    ];
    let mut mount = store.mount();
    for (code, _) in codes {
        mount = mount.expect_in_log(code);
    }
    let mount = mount.expect_in_log("SignatureDoesNotMatch").start();
    let faults = store.server().faults();
    let line_of = |code: &str| {
        let log = mount.log().text();
        let found = log.lines().find(|line| line.contains(code));
        found
            .unwrap_or_else(|| panic!("no line of {code}:\n{log}"))
            .to_owned()
    };
    for (code, expected) in codes {
        let fault = faults.inject(
            When::on(Operation::Get).key("dir/secret").for_ever(),
            Fault::Answer(code),
        );
        assert_eq!(errno(fs::read(mount.join("dir/secret"))), expected, "{code}");
        faults.remove(fault);
        let line = line_of(code);
        assert!(line.contains(" WARN "), "{line}");
        for part in ["s3://test/dir/secret", "request_id="] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
    let fault = faults.inject(
        When::on(Operation::Put).key("dir/new").for_ever(),
        Fault::Answer("SignatureDoesNotMatch"),
    );
    assert_eq!(errno(files::write(&mount.join("dir/new"), b"x")), libc::EACCES);
    faults.remove(fault);
    let line = line_of("SignatureDoesNotMatch");
    for part in ["s3://test/dir/new", "request_id=", "AWS_SECRET_ACCESS_KEY"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    mount.unmount();
}
