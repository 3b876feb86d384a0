//! Whose a data directory is: said in a file of its own and in the database, each synced, so that a directory that lost
//! one of them is seen as damaged and never taken for a new one. The file also says, for as long as it lasts, with which
//! voters this node makes its groups.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Database, StoreError};
use crate::codec::{self, keys, pb};

/// The database's directory inside the data directory.
pub(super) const DATABASE: &str = "db";
const FILE: &str = "identity";

/// What the file says before the database is opened.
pub(super) struct Claim(pb::Identity);

impl Claim {
    /// Whether the making of the directory was finished.
    pub(super) fn is_made(&self) -> bool {
        self.0.made
    }
}

fn disk(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk(format!("{}: {error}", path.display()))
}

/// What a data directory says of itself, if it says anything: before it is decided what it is asked for.
///
/// # Errors
/// When the disk refuses, or the file is damaged.
pub fn peek(path: &Path) -> Result<Option<pb::Identity>, StoreError> {
    match std::fs::read(path.join(FILE)) {
        Ok(bytes) => Ok(Some(codec::open("the identity file", checked(path, &bytes)?.to_vec())?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk(path, &error)),
    }
}

/// Says with which voters this node makes its groups, or, with none, that they are made.
///
/// # Errors
/// When the disk refuses, or the file is damaged or gone.
pub fn set_founders(path: &Path, founders: Vec<pb::NodeAddress>) -> Result<(), StoreError> {
    let gone = || StoreError::Damaged(format!("{} has lost its identity file", path.display()));
    let identity = peek(path)?.ok_or_else(gone)?;
    write(path, &pb::Identity { founders, ..identity })
}

/// Reads the directory's identity file, or makes the directory and its file for `asked`. A directory that has no name yet
/// gets the asked one's.
pub(super) fn claim(path: &Path, asked: pb::Identity) -> Result<Claim, StoreError> {
    std::fs::create_dir_all(path).map_err(|error| disk(path, &error))?;
    // The directory holds the cluster's keys: nobody else may read it.
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| disk(path, &error))?;
    let has_database = path.join(DATABASE).exists();
    match peek(path)? {
        Some(mut found) => {
            same(path, &found, &asked)?;
            if found.made && !has_database {
                return Err(StoreError::Damaged(format!("{} has an identity but no database", path.display())));
            }
            if found.disk.is_empty() {
                found.disk = asked.disk;
                write(path, &found)?;
            }
            Ok(Claim(found))
        }
        None if has_database => {
            Err(StoreError::Damaged(format!("{} has a database but no identity file", path.display())))
        }
        None => {
            write(path, &asked)?;
            Ok(Claim(asked))
        }
    }
}

/// Checks the database's identity against the file's, or gives a new database its identity.
pub(super) fn confirm(path: &Path, db: &Database, claim: Claim) -> Result<pb::Identity, StoreError> {
    let Claim(mut identity) = claim;
    match db.get(keys::IDENTITY)? {
        Some(bytes) => {
            let stored: pb::Identity = codec::open("the database's identity", bytes)?;
            if stored.cluster_id != identity.cluster_id {
                return Err(StoreError::Damaged(format!(
                    "{} belongs to cluster {}, its database to {}",
                    path.display(),
                    identity.cluster_id,
                    stored.cluster_id
                )));
            }
        }
        None if identity.made => {
            let lost = format!("the database in {} has lost its identity, and what else is unknown", path.display());
            return Err(StoreError::Damaged(lost));
        }
        None => {
            let mut options = rocksdb::WriteOptions::default();
            options.set_sync(true);
            db.put_opt(keys::IDENTITY, codec::seal(&identity), &options)?;
        }
    }
    if !identity.made {
        identity.made = true;
        write(path, &identity)?;
    }
    Ok(identity)
}

/// What stands before the file's own checksum, if that is right.
fn checked<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let sum = |body: &[u8]| crc32c::crc32c(body).to_be_bytes();
    match bytes.split_last_chunk() {
        Some((body, found)) if sum(body) == *found => Ok(body),
        Some(_) | None => Err(StoreError::Damaged(format!("the checksum of {} is wrong", path.join(FILE).display()))),
    }
}

/// Replaces the file in one step, synced: the identity and its CRC-32C, big endian.
fn write(path: &Path, identity: &pb::Identity) -> Result<(), StoreError> {
    let (file, fresh) = (path.join(FILE), path.join("identity.new"));
    let written = || -> io::Result<()> {
        let mut out = File::create(&fresh)?;
        let body = codec::seal(identity);
        out.write_all(&body)?;
        out.write_all(&crc32c::crc32c(&body).to_be_bytes())?;
        out.sync_all()?;
        std::fs::rename(&fresh, &file)?;
        File::open(path)?.sync_all()
    };
    written().map_err(|error| disk(&file, &error))
}

/// As the setting spells it.
fn tenants(identity: &pb::Identity) -> String {
    if identity.registered_tenants { "registered" } else { "any" }.to_owned()
}

/// What a directory was made with is what it is started with.
fn same(path: &Path, found: &pb::Identity, asked: &pb::Identity) -> Result<(), StoreError> {
    let pairs = [
        ("partitions", found.partitions.to_string(), asked.partitions.to_string()),
        ("region", found.region.clone(), asked.region.clone()),
        ("node_id", found.node_id.to_string(), asked.node_id.to_string()),
        ("homes", found.homes.join(","), asked.homes.join(",")),
        ("tenants", tenants(found), tenants(asked)),
        ("cluster_id", found.cluster_id.clone(), asked.cluster_id.clone()),
    ];
    match pairs.into_iter().find(|(_, found, asked)| found != asked) {
        None => Ok(()),
        Some((what, found, asked)) => Err(StoreError::Identity { path: path.to_owned(), what, found, asked }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(disk: &str) -> pb::Identity {
        pb::Identity { cluster_id: "c".to_owned(), node_id: 1, disk: disk.to_owned(), ..pb::Identity::default() }
    }

    fn file(path: &Path) -> pb::Identity {
        peek(path).ok().flatten().unwrap_or_default()
    }

    #[test]
    fn a_directory_has_one_name_for_ever() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(peek(dir.path()), Ok(None));
        claim(dir.path(), identity("first")).expect("made");
        claim(dir.path(), identity("second")).expect("it is there");
        assert_eq!(file(dir.path()).disk, "first");
    }

    #[test]
    fn a_directory_without_a_name_gets_one() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), &identity("")).expect("as it was once made");
        let Claim(claimed) = claim(dir.path(), identity("new")).expect("claimed");
        assert_eq!((claimed.disk.as_str(), file(dir.path()).disk.as_str()), ("new", "new"));
    }

    #[test]
    fn another_cluster_is_refused_with_both_names() {
        let dir = tempfile::tempdir().expect("a directory");
        claim(dir.path(), identity("d")).expect("made");
        let other = pb::Identity { cluster_id: "other".to_owned(), ..identity("d") };
        let refused = claim(dir.path(), other).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("cluster_id = c") && refused.contains("cluster_id = other"), "{refused}");
    }

    #[test]
    fn founders_stand_in_the_file_until_the_groups_are_made() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(set_founders(dir.path(), Vec::new()).is_err(), "there is no file");
        claim(dir.path(), identity("d")).expect("made");
        let founder = pb::NodeAddress { node_id: 2, disk: "e".to_owned(), ..pb::NodeAddress::default() };
        set_founders(dir.path(), vec![founder.clone()]).expect("written");
        assert_eq!(file(dir.path()), pb::Identity { founders: vec![founder], ..identity("d") });
        set_founders(dir.path(), Vec::new()).expect("written");
        assert_eq!(file(dir.path()), identity("d"));
    }
}
