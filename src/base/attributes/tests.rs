use super::*;
use proptest::prelude::*;

fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn at(nanos: i128) -> SystemTime {
    from_nanoseconds(nanos).expect("a time of a test fits")
}

fn mode_of(text: &str) -> Option<u32> {
    Attributes::read(&metadata(&[("mode", text)])).mode
}

fn mtime_of(name: &str, text: &str) -> Option<i128> {
    Attributes::read(&metadata(&[(name, text)]))
        .mtime
        .map(to_nanoseconds)
}

#[test]
fn the_families_of_the_tools_are_read() {
    let fsx = metadata(&[
        ("file-permissions", "0100664"),
        ("file-owner", "500"),
        ("file-group", "501"),
        ("file-mtime", "1595002920000000001ns"),
        ("file-atime", "1595002920000ms"),
    ]);
    let read = Attributes::read(&fsx);
    assert_eq!(
        (read.mode, read.uid, read.gid),
        (Some(0o100_664), Some(500), Some(501))
    );
    assert_eq!(read.mtime, Some(at(1_595_002_920_000_000_001)));
    assert_eq!(read.atime, Some(at(1_595_002_920_000_000_000)));

    let s3fs = metadata(&[
        ("mode", "33188"),
        ("uid", "0"),
        ("gid", "7"),
        ("ctime", "5.000000004"),
    ]);
    let read = Attributes::read(&s3fs);
    assert_eq!(
        (read.mode, read.uid, read.gid),
        (Some(0o100_644), Some(0), Some(7))
    );
    assert_eq!(read.ctime, Some(at(5_000_000_004)));

    let gsutil = metadata(&[
        ("goog-reserved-posix-mode", "640"),
        ("goog-reserved-posix-uid", "12"),
        ("goog-reserved-posix-gid", "13"),
        ("goog-reserved-file-mtime", "1595002920"),
        ("goog-reserved-posix-atime", "1595002921"),
    ]);
    let read = Attributes::read(&gsutil);
    assert_eq!(
        (read.mode, read.uid, read.gid),
        (Some(0o100_640), Some(12), Some(13))
    );
    assert_eq!(read.mtime, Some(at(1_595_002_920 * NANOS_PER_SECOND)));
    assert_eq!(read.atime, Some(at(1_595_002_921 * NANOS_PER_SECOND)));
}

#[test]
fn permissions_without_a_type_are_those_of_a_regular_file() {
    for text in ["0644", "644", "100644", "0100644"] {
        assert_eq!(
            Attributes::read(&metadata(&[("file-permissions", text)])).mode,
            Some(0o100_644)
        );
    }
}

#[test]
fn octal_and_decimal_modes_are_told_apart() {
    let octal = [
        ("100644", 0o100_644),
        ("40755", 0o040_755),
        ("41777", 0o041_777),
        ("42755", 0o042_755),
        ("120777", 0o120_777),
        ("0100664", 0o100_664),
        ("755", 0o100_755),
        ("4755", 0o104_755),
    ];
    let decimal = [
        ("33188", 0o100_644),
        ("33261", 0o100_755),
        ("16877", 0o040_755),
        ("16744", 0o040_550),
        ("17407", 0o041_777),
        ("41471", 0o120_777),
        ("41453", 0o120_755),
        ("4516", 0o010_644),
        ("8592", 0o020_620),
        ("25008", 0o060_660),
        ("49645", 0o140_755),
        ("493", 0o100_755),
    ];
    for (text, mode) in octal.into_iter().chain(decimal) {
        assert_eq!(mode_of(text), Some(mode), "{text}");
    }
}

#[test]
fn every_mode_that_either_tool_stores_is_read_as_meant() {
    for permissions in 0..=0o7777 {
        let regular = libc::S_IFREG | permissions;
        assert_eq!(mode_of(&regular.to_string()), Some(regular));
        assert_eq!(mode_of(&format!("{regular:o}")), Some(regular));
        let directory = libc::S_IFDIR | permissions;
        assert_eq!(mode_of(&directory.to_string()), Some(directory));
        if !["41471", "41453"].contains(&format!("{directory:o}").as_str()) {
            assert_eq!(mode_of(&format!("{directory:o}")), Some(directory));
        }
    }
    assert_eq!(
        mode_of(&libc::S_IFLNK.wrapping_add(0o777).to_string()),
        Some(0o120_777)
    );
}

#[test]
fn times_are_exact_in_every_form() {
    assert_eq!(
        mtime_of("file-mtime", "1528817022000ms"),
        Some(1_528_817_022_000_000_000)
    );
    assert_eq!(
        mtime_of("file-mtime", "1528817022"),
        Some(1_528_817_022_000_000_000)
    );
    assert_eq!(
        mtime_of("file-mtime", "1528817022000"),
        Some(1_528_817_022_000_000_000)
    );
    assert_eq!(
        mtime_of("file-mtime", "1528817022000000007"),
        Some(1_528_817_022_000_000_007)
    );
    assert_eq!(mtime_of("file-mtime", "-1ns"), Some(-1));
    assert_eq!(
        mtime_of("mtime", "1528817022.123456789"),
        Some(1_528_817_022_123_456_789)
    );
    assert_eq!(mtime_of("mtime", "1528817022.5"), Some(1_528_817_022_500_000_000));
    assert_eq!(mtime_of("mtime", "-1.5"), Some(-1_500_000_000));
    assert_eq!(
        mtime_of("mtime", "1970-01-02T00:00:00.25+01:00"),
        Some(82_800_250_000_000)
    );
    assert_eq!(
        mtime_of("mtime", "2000-02-29T12:00:00Z"),
        Some(951_825_600_000_000_000)
    );
    assert_eq!(mtime_of("mtime", "1969-12-31T23:59:59.9Z"), Some(-100_000_000));
}

#[test]
fn garbage_is_ignored_value_by_value() {
    let read = Attributes::read(&metadata(&[
        ("file-permissions", "rw-r--r--"),
        ("mode", "33188"),
        ("file-owner", "-1"),
        ("uid", "4294967295"),
        ("goog-reserved-posix-uid", "5"),
        ("file-mtime", "yesterday"),
        ("mtime", "7"),
        ("file-atime", "99999999999999999999999999999s"),
        ("ctime", "1.2.3"),
    ]));
    assert_eq!((read.mode, read.uid, read.gid), (Some(0o100_644), Some(5), None));
    assert_eq!(
        (read.mtime, read.atime, read.ctime),
        (Some(at(7 * NANOS_PER_SECOND)), None, None)
    );
    for text in [
        "",
        "-",
        "+1",
        "1e9",
        ".5",
        "5.",
        "1 s",
        "1d",
        "2006-13-01T00:00:00Z",
        "2006-01-01T00:00:00",
        "T",
    ] {
        assert_eq!(mtime_of("mtime", text), None, "{text}");
    }
    for text in ["", "-644", "+644", "777777", "30644", "999999", "0x1ff"] {
        assert_eq!(mode_of(text), None, "{text}");
    }
}

#[test]
fn the_written_form_is_that_of_the_tools() {
    let attributes = Attributes {
        mode: Some(0o100_644),
        uid: Some(1000),
        gid: Some(1001),
        mtime: Some(at(1_500_000_000_000_000_001)),
        ctime: None,
        atime: Some(at(-500_000_000)),
        device: None,
    };
    let mut written = BTreeMap::new();
    attributes.write(MetadataFormat::Aws, &mut written);
    let aws = [
        ("file-permissions", "0100644"),
        ("file-owner", "1000"),
        ("file-group", "1001"),
        ("file-mtime", "1500000000000000001ns"),
        ("file-atime", "-500000000ns"),
    ];
    assert_eq!(written, metadata(&aws));
    attributes.write(MetadataFormat::S3fs, &mut written);
    let s3fs = [
        ("mode", "33188"),
        ("uid", "1000"),
        ("gid", "1001"),
        ("mtime", "1500000000.000000001"),
        ("atime", "-0.500000000"),
    ];
    assert_eq!(written, metadata(&s3fs));
}

#[test]
fn without_a_format_only_the_times_go() {
    let mut of_others = metadata(&[
        ("mode", "33188"),
        ("mtime", "5"),
        ("file-mtime", "5ns"),
        ("colour", "red"),
    ]);
    Attributes::default().write(MetadataFormat::None, &mut of_others);
    assert_eq!(of_others, metadata(&[("mode", "33188"), ("colour", "red")]));
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let kind = prop_oneof![
        Just(libc::S_IFREG),
        Just(libc::S_IFDIR),
        Just(libc::S_IFCHR),
        Just(libc::S_IFBLK),
        Just(libc::S_IFSOCK),
    ];
    // Of symlinks and pipes s3fs's decimal form is certain only for the permissions that they have in practice.
    let mode = prop_oneof![
        4 => (kind, 0..=0o7777u32).prop_map(|(kind, permissions)| kind | permissions),
        1 => Just(libc::S_IFLNK | 0o777),
        1 => (0..=0o777u32).prop_map(|permissions| libc::S_IFIFO | permissions),
    ];
    let id = 0..u32::MAX;
    let time = || {
        proptest::option::of(
            prop_oneof![
                any::<i64>().prop_map(i128::from),
                -3_000_000_000i128..3_000_000_000,
                (-1i128 << 92)..(1i128 << 92)
            ]
            .prop_map(at),
        )
    };
    (
        proptest::option::of(mode),
        proptest::option::of(id.clone()),
        proptest::option::of(id),
        time(),
        time(),
        time(),
        proptest::option::of(any::<u32>()),
    )
        .prop_map(|(mode, uid, gid, mtime, ctime, atime, device)| Attributes {
            mode,
            uid,
            gid,
            mtime,
            ctime,
            atime,
            device,
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read_whatever_was_there(
        attributes in attributes(),
        aws in any::<bool>(),
        before in proptest::collection::btree_map(
            prop_oneof![
                proptest::sample::select(MODE_AND_OWNER.as_slice()).prop_map(str::to_owned),
                proptest::sample::select(TIMES.as_slice()).prop_map(str::to_owned),
                "[a-z]{1,8}",
            ],
            "[0-9.a-z-]{0,12}",
            0..8,
        ),
    ) {
        let mut stored = before.clone();
        let format = if aws { MetadataFormat::Aws } else { MetadataFormat::S3fs };
        attributes.write(format, &mut stored);
        prop_assert_eq!(Attributes::read(&stored), attributes);
        let ours = |name: &str| MODE_AND_OWNER.contains(&name) || TIMES.contains(&name);
        for (name, value) in before.iter().filter(|(name, _)| !ours(name)) {
            prop_assert_eq!(stored.get(name), Some(value));
        }
        for name in stored.keys() {
            prop_assert!(ours(name) || before.contains_key(name));
        }
    }

    #[test]
    fn no_text_is_an_error(name in proptest::sample::select(TIMES.as_slice()), text in "[-0-9.:TZ+ns]{0,30}|.{0,40}") {
        let _ = Attributes::read(&metadata(&[(name, &text), ("mode", &text), ("file-owner", &text)]));
    }
}
