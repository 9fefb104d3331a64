//! Checksums: verified, kept, shown.

use crate::support::{BUCKET, Fixture, MIB, get, pattern, put, refused, refused_as, run, streamed};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart, ObjectAttributes,
};
use bytes::Bytes;
use pailfs::base::checksum::Crc32c;

const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32C,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

#[test]
fn every_algorithm_in_a_header_comes_back() {
    run(async {
        let s3 = Fixture::new().await;
        for algorithm in ALGORITHMS {
            let body = ByteStream::from_static(b"checksummed");
            let put = s3
                .put_object()
                .bucket(BUCKET)
                .key("k")
                .checksum_algorithm(algorithm.clone())
                .body(body);
            put.send().await.unwrap();
            let get = s3
                .get_object()
                .bucket(BUCKET)
                .key("k")
                .checksum_mode(ChecksumMode::Enabled);
            let answer = get.send().await.unwrap();
            let shown = [
                answer.checksum_crc32(),
                answer.checksum_crc32_c(),
                answer.checksum_crc64_nvme(),
                answer.checksum_sha1(),
                answer.checksum_sha256(),
            ];
            let position = ALGORITHMS.iter().position(|other| *other == algorithm);
            assert_eq!(shown.iter().position(Option::is_some), position, "{algorithm}");
            assert_eq!(shown.iter().flatten().count(), 1);
            assert_eq!(answer.checksum_type(), Some(&ChecksumType::FullObject));
            // The SDK verifies the value as it reads.
            assert_eq!(answer.body.collect().await.unwrap().into_bytes(), "checksummed");
        }
    });
}

#[test]
fn every_algorithm_in_a_trailer_is_accepted() {
    run(async {
        let s3 = Fixture::new().await;
        let data = pattern(300_001, 6);
        for algorithm in ALGORITHMS {
            let put = s3
                .put_object()
                .bucket(BUCKET)
                .key("k")
                .checksum_algorithm(algorithm.clone());
            put.content_length(300_001)
                .body(streamed(&data))
                .send()
                .await
                .unwrap();
            assert_eq!(get(&s3, "k").await, data);
            let page = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
            assert_eq!(page.contents()[0].checksum_algorithm(), [algorithm]);
            let head = s3.head_object().bucket(BUCKET).key("k").send().await.unwrap();
            assert_eq!(
                head.content_encoding(),
                None,
                "the transport's encoding is not the object's"
            );
        }
    });
}

#[test]
fn an_object_put_by_default_is_valid() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "k", "zz").await;
        assert_eq!(get(&s3, "k").await, "zz");
    });
}

#[test]
fn a_wrong_checksum_changes_nothing() {
    run(async {
        let s3 = Fixture::new().await;
        let put = || {
            s3.put_object()
                .bucket(BUCKET)
                .key("k")
                .body(ByteStream::from_static(b"data"))
        };
        refused(put().checksum_crc32_c("AAAAAA==").send().await, 400);
        refused(put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send().await, 400);
        refused(s3.head_object().bucket(BUCKET).key("k").send().await, 404);
        assert_eq!(std::fs::read_dir(s3.dir.path().join("blobs")).unwrap().count(), 0);
    });
}

#[test]
fn what_s3_computes_unasked_shows_in_listings() {
    run(async {
        let s3 = Fixture::new().await;
        let presigning =
            aws_sdk_s3::presigning::PresigningConfig::expires_in(std::time::Duration::from_mins(1));
        let request = s3
            .put_object()
            .bucket(BUCKET)
            .key("k")
            .presigned(presigning.unwrap())
            .await
            .unwrap();
        // A presigned request carries no checksum.
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        let put = http::Request::put(request.uri()).body(http_body_util::Full::new(Bytes::from_static(b"x")));
        assert_eq!(client.request(put.unwrap()).await.unwrap().status(), 200);
        let page = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        assert_eq!(
            page.contents()[0].checksum_algorithm(),
            [ChecksumAlgorithm::Crc64Nvme]
        );
        assert_eq!(
            page.contents()[0].checksum_type(),
            Some(&ChecksumType::FullObject)
        );
    });
}

#[test]
fn a_multipart_upload_has_the_checksum_of_the_whole() {
    run(async {
        let s3 = Fixture::new().await;
        let data = pattern(5 * MIB + 77, 7);
        let whole = Crc32c::of(&data).to_base64();
        let create = s3.create_multipart_upload().bucket(BUCKET).key("k");
        let create = create
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .checksum_type(ChecksumType::FullObject);
        let id = create.send().await.unwrap().upload_id.unwrap();
        let mut parts = Vec::new();
        for (number, part) in [(1, data.slice(..5 * MIB)), (2, data.slice(5 * MIB..))] {
            let sum = Crc32c::of(&part).to_base64();
            let upload = s3
                .upload_part()
                .bucket(BUCKET)
                .key("k")
                .upload_id(&id)
                .part_number(number);
            let answer = upload
                .checksum_crc32_c(&sum)
                .body(ByteStream::from(part))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.checksum_crc32_c(), Some(sum.as_str()));
            let part = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(answer.e_tag);
            parts.push(part.checksum_crc32_c(sum).build());
        }
        let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = |sum: &str, len: i64| {
            let request = s3
                .complete_multipart_upload()
                .bucket(BUCKET)
                .key("k")
                .upload_id(&id);
            let request = request
                .multipart_upload(list.clone())
                .checksum_type(ChecksumType::FullObject);
            request.checksum_crc32_c(sum).mpu_object_size(len).send()
        };
        refused_as(complete("AAAAAA==", data.len() as i64).await, "BadDigest");
        refused_as(complete(&whole, 7).await, "InvalidRequest");
        let answer = complete(&whole, data.len() as i64).await.unwrap();
        assert_eq!(answer.checksum_crc32_c(), Some(whole.as_str()));
        let head = s3
            .head_object()
            .bucket(BUCKET)
            .key("k")
            .checksum_mode(ChecksumMode::Enabled);
        let head = head.send().await.unwrap();
        assert_eq!(head.checksum_crc32_c(), Some(whole.as_str()));
        assert_eq!(head.checksum_type(), Some(&ChecksumType::FullObject));
    });
}

#[test]
fn crc64nvme_is_of_the_whole_by_itself() {
    run(async {
        let s3 = Fixture::new().await;
        let algorithm = ChecksumAlgorithm::Crc64Nvme;
        let create = s3
            .create_multipart_upload()
            .bucket(BUCKET)
            .key("k")
            .checksum_algorithm(algorithm.clone());
        let id = create.send().await.unwrap().upload_id.unwrap();
        let upload = s3
            .upload_part()
            .bucket(BUCKET)
            .key("k")
            .upload_id(&id)
            .part_number(1);
        let upload = upload
            .checksum_algorithm(algorithm)
            .body(ByteStream::from_static(b"x"));
        let answer = upload.send().await.unwrap();
        assert!(answer.checksum_crc64_nvme().is_some());
        let part = CompletedPart::builder().part_number(1).set_e_tag(answer.e_tag);
        let part = part.set_checksum_crc64_nvme(answer.checksum_crc64_nvme).build();
        let list = CompletedMultipartUpload::builder().parts(part).build();
        let complete = s3
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("k")
            .upload_id(&id);
        complete.multipart_upload(list).send().await.unwrap();
        let head = s3
            .head_object()
            .bucket(BUCKET)
            .key("k")
            .checksum_mode(ChecksumMode::Enabled);
        assert!(head.send().await.unwrap().checksum_crc64_nvme().is_some());
    });
}

#[test]
fn a_composite_checksum_needs_those_of_its_parts() {
    run(async {
        let s3 = Fixture::new().await;
        let create = s3.create_multipart_upload().bucket(BUCKET).key("k");
        let create = create.checksum_algorithm(ChecksumAlgorithm::Sha256);
        let id = create.send().await.unwrap().upload_id.unwrap();
        let upload = || {
            s3.upload_part()
                .bucket(BUCKET)
                .key("k")
                .upload_id(&id)
                .part_number(1)
        };
        let other = upload()
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from_static(b"x"));
        refused_as(other.send().await, "InvalidRequest");
        let right = upload()
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .body(ByteStream::from_static(b"x"));
        let answer = right.send().await.unwrap();
        let part = CompletedPart::builder().part_number(1).set_e_tag(answer.e_tag);
        let complete = |part: CompletedPart| {
            let list = CompletedMultipartUpload::builder().parts(part).build();
            s3.complete_multipart_upload()
                .bucket(BUCKET)
                .key("k")
                .upload_id(&id)
                .multipart_upload(list)
                .send()
        };
        refused_as(complete(part.clone().build()).await, "InvalidRequest");
        let done = complete(part.set_checksum_sha256(answer.checksum_sha256).build())
            .await
            .unwrap();
        assert!(
            done.checksum_sha256().is_some_and(|sum| sum.ends_with("-1")),
            "{:?}",
            done.checksum_sha256()
        );
        let attributes = s3.get_object_attributes().bucket(BUCKET).key("k");
        let wanted = vec![ObjectAttributes::Checksum, ObjectAttributes::ObjectParts];
        let attributes = attributes
            .set_object_attributes(Some(wanted))
            .send()
            .await
            .unwrap();
        assert!(
            attributes
                .checksum()
                .and_then(|checksum| checksum.checksum_sha256())
                .is_some()
        );
        let parts = attributes.object_parts().unwrap();
        assert_eq!(parts.total_parts_count(), Some(1));
        assert!(parts.parts()[0].checksum_sha256().is_some());
    });
}
