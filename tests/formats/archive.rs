//! Zip archives of members that are not compressed, written byte by byte.

/// An archive of members that are not compressed.
pub(crate) fn zipped(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let offset = u32::try_from(archive.len()).expect("a small archive");
        let length = u32::try_from(data.len()).expect("a small member");
        // Version, flags, method, time, date.
        let mut header = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header.extend(crc32fast::hash(data).to_le_bytes());
        header.extend([length, length].map(u32::to_le_bytes).concat());
        header.extend(u16::try_from(name.len()).expect("a short name").to_le_bytes());
        header.extend([0; 2]);
        archive.extend([b"PK\x03\x04", header.as_slice(), name.as_bytes(), data].concat());
        // Comment, disk and attributes are empty.
        let place = [&[0; 10], offset.to_le_bytes().as_slice()].concat();
        directory.extend([b"PK\x01\x02\x14\x00", header.as_slice(), &place, name.as_bytes()].concat());
    }
    let count = u16::try_from(members.len()).expect("few members").to_le_bytes();
    let sizes =
        [directory.len(), archive.len()].map(|n| u32::try_from(n).expect("a small archive").to_le_bytes()).concat();
    let end = [b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count, &sizes, &[0; 2]].concat();
    [archive, directory, end].concat()
}

/// The data of a member that is not compressed.
pub(crate) fn stored(archive: &[u8], name: &str) -> Vec<u8> {
    let number = |at: usize, width: usize| {
        (0..width).rev().fold(0_usize, |number, byte| number << 8 | usize::from(archive[at + byte]))
    };
    let end = archive.windows(4).rposition(|window| window == b"PK\x05\x06").expect("the end of a directory");
    let mut at = number(end + 16, 4);
    loop {
        assert_eq!(&archive[at..at + 4], b"PK\x01\x02", "no member {name}");
        let [size, names, extra, comment, local] =
            [(at + 24, 4), (at + 28, 2), (at + 30, 2), (at + 32, 2), (at + 42, 4)].map(|(at, width)| number(at, width));
        if &archive[at + 46..at + 46 + names] == name.as_bytes() {
            let data = local + 30 + number(local + 26, 2) + number(local + 28, 2);
            return archive[data..data + size].to_vec();
        }
        at += 46 + names + extra + comment;
    }
}
