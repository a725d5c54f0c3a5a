//! The simulated disk can do what disks were seen to do, and sees what its user does.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, Lock, Open, read_exact_at, read_file, write_all_at};

const SEEDS: u64 = 300;

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn disk() -> Arc<SimDisk> {
    SimDisk::new(DiskOptions::default())
}

fn create(disk: &SimDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(path(name), Open::CreateNew).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
    file
}

fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    read_file(disk, path(name), u64::MAX).ok()
}

/// What is found under `name` after each of many crashes.
fn found(disk: &SimDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..SEEDS).map(|seed| read(&disk.crash(seed), name)).collect()
}

fn rule(disk: &SimDisk) -> Option<&'static str> {
    disk.audit().map(|audit| audit.rule)
}

mod after_a_power_cut {
    use super::*;

    #[test]
    fn unsynced_appends_leave_zeros_with_valid_bytes_behind_them() {
        let disk = disk();
        let file = create(&disk, "/f", &[]);
        file.sync().unwrap();
        disk.sync_dir(path("/")).unwrap();
        for sector in 0..3 {
            write_all_at(&*file, &[7; 512], sector * 512).unwrap();
        }
        let hole = [[7; 512], [0; 512], [7; 512]].concat();
        let found = found(&disk, "/f");
        assert!(found.contains(&Some(hole)));
        assert!(found.contains(&Some(vec![0; 1536])), "right length, all zeros");
        assert!(found.contains(&Some(vec![7; 1536])) && found.contains(&Some(Vec::new())));
        assert!(
            found.iter().flatten().any(|bytes| !bytes.is_empty() && bytes.len() < 1536 && bytes.len() % 512 != 0)
        );
    }

    #[test]
    fn a_sector_is_whole_unless_torn_sectors_are_asked_for() {
        for torn in [false, true] {
            let disk = SimDisk::new(DiskOptions { torn, ..DiskOptions::default() });
            let file = create(&disk, "/f", &[0; 1024]);
            file.sync().unwrap();
            disk.sync_dir(path("/")).unwrap();
            write_all_at(&*file, &[7; 1024], 0).unwrap();
            let is_torn = |bytes: &[u8]| bytes.chunks(512).any(|sector| sector.contains(&0) && sector.contains(&7));
            assert_eq!(found(&disk, "/f").iter().flatten().any(|bytes| is_torn(bytes)), torn);
        }
    }

    #[test]
    fn a_renamed_unsynced_file_is_empty_or_zeros() {
        let disk = SimDisk::new(DiskOptions { blind: true, ..DiskOptions::default() });
        create(&disk, "/f.tmp", &[7; 600]);
        disk.rename(path("/f.tmp"), path("/f")).unwrap();
        disk.sync_dir(path("/")).unwrap();
        let found = found(&disk, "/f");
        assert!(!found.contains(&None));
        assert!(found.contains(&Some(vec![0; 600])) && found.contains(&Some(Vec::new())));
    }

    #[test]
    fn an_unsynced_rename_is_undone_or_done_never_half() {
        let disk = disk();
        for (name, byte) in [("/f", 1), ("/f.tmp", 2)] {
            create(&disk, name, &[byte]).sync().unwrap();
        }
        disk.sync_dir(path("/")).unwrap();
        disk.rename(path("/f.tmp"), path("/f")).unwrap();
        let images = (0..SEEDS).map(|seed| disk.crash(seed));
        let found: BTreeSet<_> = images.map(|disk| (read(&disk, "/f"), read(&disk, "/f.tmp"))).collect();
        assert_eq!(found, BTreeSet::from([(Some(vec![1]), Some(vec![2])), (Some(vec![2]), None)]));
    }

    #[test]
    fn an_unsynced_unlink_can_come_back_though_another_file_was_synced() {
        let disk = disk();
        create(&disk, "/gone", &[1]).sync().unwrap();
        let other = create(&disk, "/other", &[2]);
        disk.sync_dir(path("/")).unwrap();
        disk.remove_file(path("/gone")).unwrap();
        other.sync().unwrap();
        assert_eq!(found(&disk, "/gone"), BTreeSet::from([None, Some(vec![1])]));
        disk.sync_dir(path("/")).unwrap();
        assert_eq!(found(&disk, "/gone"), BTreeSet::from([None]));
    }

    #[test]
    fn an_unsynced_cut_can_come_back_with_its_old_bytes() {
        let disk = disk();
        let file = create(&disk, "/f", &[7; 100]);
        file.sync().unwrap();
        disk.sync_dir(path("/")).unwrap();
        file.set_len(10).unwrap();
        assert!(found(&disk, "/f").contains(&Some(vec![7; 100])));
        assert!(found(&disk, "/f").contains(&Some(vec![7; 10])));
        file.sync().unwrap();
        assert_eq!(found(&disk, "/f"), BTreeSet::from([Some(vec![7; 10])]));
    }

    #[test]
    fn a_synced_file_is_gone_without_its_name_unless_the_disk_is_kind() {
        for kind in [false, true] {
            let disk = SimDisk::new(DiskOptions { kind, ..DiskOptions::default() });
            disk.create_dir(path("/d")).unwrap();
            create(&disk, "/d/f", &[7]).sync().unwrap();
            assert_eq!(found(&disk, "/d/f").contains(&None), !kind);
            disk.sync_dir(path("/d")).unwrap();
            assert_eq!(found(&disk, "/d/f").contains(&None), !kind, "the directory has no name either");
            disk.sync_dir(path("/")).unwrap();
            assert_eq!(found(&disk, "/d/f"), BTreeSet::from([Some(vec![7])]));
        }
    }

    #[test]
    fn a_rename_of_a_name_that_never_was_does_not_happen() {
        let disk = disk();
        create(&disk, "/a", &[1]).sync().unwrap();
        disk.rename(path("/a"), path("/b")).unwrap();
        disk.rename(path("/b"), path("/c")).unwrap();
        for seed in 0..SEEDS {
            let names = disk.crash(seed).list(path("/")).unwrap();
            assert!(names.len() <= 1, "one file, one name: {names:?}");
        }
    }

    #[test]
    fn the_boot_is_another_and_files_are_the_same() {
        let disk = disk();
        let file = create(&disk, "/f", &[7]);
        file.sync().unwrap();
        disk.sync_dir(path("/")).unwrap();
        let boot = |disk: &SimDisk| disk.volume(path("/")).unwrap().boot;
        let (killed, crashed) = (disk.kill(), disk.crash(1));
        assert_eq!(boot(&killed), boot(&disk));
        assert_ne!(boot(&crashed), boot(&disk));
        assert_eq!(crashed.metadata(path("/f")).unwrap().id, file.metadata().unwrap().id);
    }

    #[test]
    fn every_outcome_can_be_run_through() {
        let disk = disk();
        let file = create(&disk, "/f", &[0; 1024]);
        file.sync().unwrap();
        disk.sync_dir(path("/")).unwrap();
        write_all_at(&*file, &[7; 1024], 0).unwrap();
        let image = disk.image();
        assert_eq!(image.crash_bits(), 2);
        let outcomes: BTreeSet<_> = (0..4).map(|bits| image.crash_outcome(bits).files()).collect();
        assert_eq!(outcomes.len(), 4);
    }
}

mod after_a_kill {
    use super::*;

    #[test]
    fn everything_written_is_there_and_nothing_is_held() {
        let disk = disk();
        let _file = create(&disk, "/f", &[7; 100]);
        let _lock = disk.lock(path("/LOCK"), Lock::Exclusive).unwrap().unwrap();
        assert!(disk.lock(path("/LOCK"), Lock::Shared).unwrap().is_none());
        let killed = disk.kill();
        assert_eq!(read(&killed, "/f"), Some(vec![7; 100]));
        assert!(killed.lock(path("/LOCK"), Lock::Exclusive).unwrap().is_some());
        assert_eq!((killed.handles(), disk.handles()), (0, 2));
    }

    #[test]
    fn the_call_under_way_may_have_done_a_part() {
        let disk = disk();
        let file = create(&disk, "/f", &[]);
        disk.record(Record::All);
        write_all_at(&*file, &[7; 100], 0).unwrap();
        let moments = disk.take_moments();
        let lens: Vec<_> = moments.iter().map(|moment| moment.image.files()[path("/f")].len()).collect();
        assert!(moments[0].during && lens[0] > 0 && lens[0] < 100, "{lens:?}");
        assert_eq!((moments.len(), lens[1]), (2, 100));
    }
}

mod faults {
    use super::*;

    /// EIO at a sync, the second sync returns 0, the cache shows new bytes, the disk has old ones.
    #[test]
    fn a_failed_sync_is_reported_once_and_forgotten() {
        let disk = SimDisk::new(DiskOptions { blind: true, ..DiskOptions::default() });
        let file = create(&disk, "/f", &[1; 2048]);
        file.sync().unwrap();
        disk.sync_dir(path("/")).unwrap();
        write_all_at(&*file, &[2; 2048], 0).unwrap();
        disk.inject(disk.calls(), Fault::Error(Errno::Io), Times::Once);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(read(&disk, "/f"), Some(vec![2; 2048]));
        let lost = disk.crash(0);
        assert!(read(&lost, "/f").unwrap().contains(&1));
        disk.evict();
        assert_eq!(read(&disk, "/f"), read(&lost, "/f"));
    }

    #[test]
    fn a_failed_write_back_is_told_to_each_open_handle_and_to_no_later_one() {
        let disk = disk();
        let file = create(&disk, "/f", &[1; 100]);
        let other = disk.open(path("/f"), Open::Write).unwrap();
        disk.inject(disk.calls(), Fault::WriteBack, Times::Once);
        assert_eq!(file.metadata().unwrap().len, 100);
        let later = disk.open(path("/f"), Open::Write).unwrap();
        assert!(file.sync().is_err() && other.sync().is_err());
        later.sync().unwrap();
    }

    #[test]
    fn a_media_error_under_a_read_is_an_error() {
        let disk = disk();
        let file = create(&disk, "/f", &[1; 100]);
        disk.inject(disk.calls(), Fault::Error(Errno::Io), Times::Sticky);
        assert!(file.read_at(&mut [0; 10], 0).is_err() && file.read_at(&mut [0; 10], 50).is_err());
        file.write_at(&[2], 0).unwrap();
        disk.heal();
        assert_eq!(file.read_at(&mut [0; 10], 95).unwrap(), 5);
    }

    #[test]
    fn each_error_arrives_as_itself_and_the_call_does_nothing() {
        for errno in Errno::ALL {
            let disk = disk();
            let file = create(&disk, "/f", &[1; 10]);
            disk.inject(disk.calls(), Fault::Error(errno), Times::Dead);
            assert_eq!(file.write_at(&[2; 10], 0).unwrap_err().kind(), io::Error::from(errno).kind());
            assert!(disk.open(path("/g"), Open::CreateNew).is_err() && disk.remove_file(path("/f")).is_err());
            assert_eq!(disk.struck(), 3);
            disk.heal();
            assert_eq!((read(&disk, "/f"), read(&disk, "/g")), (Some(vec![1; 10]), None));
        }
    }

    #[test]
    fn reads_and_writes_can_be_short_and_go_on() {
        let disk = disk();
        let file = create(&disk, "/f", &[]);
        disk.inject(disk.calls(), Fault::Short(3), Times::Sticky);
        let before = disk.calls();
        write_all_at(&*file, &[7; 10], 0).unwrap();
        assert_eq!(disk.calls() - before, 4);
        disk.inject(disk.calls(), Fault::Short(1), Times::Sticky);
        let mut bytes = [0; 10];
        read_exact_at(&*file, &mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 10]);
    }

    #[test]
    fn a_write_can_land_elsewhere() {
        let disk = disk();
        let file = create(&disk, "/f", &[0; 30]);
        disk.inject(disk.calls(), Fault::Misplaced(10), Times::Once);
        assert_eq!(file.write_at(&[7; 5], 5).unwrap(), 5);
        assert_eq!(read(&disk, "/f").unwrap()[15..20], [7; 5]);
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_heals() {
        let disk = disk();
        let file = create(&disk, "/f", &[1; 1024]);
        disk.set_free(Some(2048));
        assert_eq!(file.write_at(&[2; 5000], 1024).unwrap(), 2048);
        assert_eq!(file.write_at(&[2; 10], 3072).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(file.reserve(8192, 1).is_err());
        assert_eq!(disk.volume(path("/")).unwrap().free_bytes, 0);
        file.write_at(&[3; 3072], 0).unwrap();
        disk.set_free(Some(1024));
        file.write_at(&[2; 10], 3072).unwrap();
        disk.remove_file(path("/f")).unwrap();
        assert_eq!(disk.volume(path("/")).unwrap().free_bytes, 0, "an open file keeps its space");
        drop(file);
        assert_eq!(disk.volume(path("/")).unwrap().free_bytes, 4096);
    }

    #[test]
    fn a_reserved_range_can_be_written_on_a_full_disk() {
        let disk = disk();
        let file = create(&disk, "/f", &[1]);
        file.reserve(0, 4096).unwrap();
        disk.set_free(Some(0));
        assert_eq!(file.write_at(&[2; 4096], 0).unwrap(), 4096);
        assert_eq!(file.metadata().unwrap().len, 4096);
    }

    #[test]
    fn a_call_can_take_an_hour() {
        let disk = disk();
        let before = disk.clock().monotonic();
        disk.inject(disk.calls(), Fault::Slow(std::time::Duration::from_secs(3600)), Times::Once);
        disk.list(path("/")).unwrap();
        assert_eq!((disk.clock().monotonic() - before).as_secs(), 3600);
    }
}

mod rot {
    use super::*;

    #[test]
    fn files_can_be_damaged_at_rest() {
        let mut image = {
            let disk = disk();
            create(&disk, "/f", &[[1; 512], [2; 512]].concat());
            disk.image()
        };
        let mut rotten = |rot| {
            assert!(image.rot(path("/f"), &rot));
            image.files().get(path("/f")).cloned()
        };
        assert_eq!(rotten(Rot::SwapSectors(0, 600)), Some([[2; 512], [1; 512]].concat()));
        assert_eq!(rotten(Rot::FlipBit { position: 0, bit: 2 }).unwrap()[0], 6);
        assert_eq!(rotten(Rot::ZeroSector(1023)).unwrap()[512..], [0; 512]);
        assert_eq!(rotten(Rot::Truncate(3)), Some(vec![6, 2, 2]));
        assert_eq!(rotten(Rot::Append(vec![9])), Some(vec![6, 2, 2, 9]));
        assert_eq!(rotten(Rot::Restore(vec![5])), Some(vec![5]));
        assert!(image.rot(path("/f"), &Rot::Duplicate("/g".into())) && image.rot(path("/f"), &Rot::Delete));
        assert!(!image.rot(path("/f"), &Rot::Delete));
        let found = image.crash(1).files();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("/g".into(), vec![5])]);
    }
}

mod audit {
    use super::*;

    #[test]
    fn a_second_sync_after_a_failed_one_breaks_the_rules() {
        let disk = disk();
        let file = create(&disk, "/f", &[1]);
        disk.inject(disk.calls(), Fault::Error(Errno::Io), Times::Once);
        assert!(file.sync().is_err());
        assert_eq!(rule(&disk), None);
        file.sync().unwrap();
        assert_eq!(rule(&disk), Some("sync after a failed sync"));
    }

    #[test]
    fn published_bytes_may_be_written_again_not_changed_nor_cut() {
        let disk = disk();
        let file = create(&disk, "/f", &[1, 2, 3, 4]);
        disk.publish(path("/f"), 3).unwrap();
        write_all_at(&*file, &[2, 3, 9], 1).unwrap();
        file.zero_range(3, 1).unwrap();
        file.set_len(3).unwrap();
        assert_eq!(rule(&disk), None);
        file.set_len(2).unwrap();
        assert_eq!(rule(&disk), Some("cut below published"));

        let overwrite = |file: &dyn DiskFile| file.write_at(&[9], 2).map(drop);
        let zero = |file: &dyn DiskFile| file.zero_range(2, 1);
        for change in [overwrite, zero] {
            let disk = super::disk();
            let file = create(&disk, "/f", &[1, 2, 3, 4]);
            disk.publish(path("/f"), 3).unwrap();
            change(&*file).unwrap();
            assert_eq!(rule(&disk), Some("write below published"));
        }
    }

    #[test]
    fn mapped_bytes_are_published_and_maps_show_later_writes() {
        let disk = disk();
        let file = create(&disk, "/f", &[1, 2, 3]);
        let map = file.map(100).unwrap();
        map.raise(2);
        write_all_at(&*file, &[9, 4, 5], 2).unwrap();
        map.raise(5);
        assert_eq!(map.readable(), [1, 2, 9, 4, 5]);
        assert_eq!(rule(&disk), None);
        file.set_len(4).unwrap();
        assert_eq!(rule(&disk), Some("cut below published"));

        let disk = super::disk();
        let file = create(&disk, "/f", &[1, 2, 3]);
        let map = file.map(100).unwrap();
        map.raise(2);
        write_all_at(&*file, &[7], 1).unwrap();
        assert_eq!((rule(&disk), map.readable()), (Some("write below published"), &[1, 2][..]));
    }

    #[test]
    fn a_file_may_be_cut_once_nothing_maps_it() {
        let disk = disk();
        let file = create(&disk, "/f", &[1, 2, 3]);
        let map = file.map(100).unwrap();
        map.raise(3);
        drop(map);
        file.set_len(0).unwrap();
        assert_eq!(rule(&disk), None);
    }

    #[test]
    fn renaming_unsynced_bytes_breaks_the_rules() {
        let disk = disk();
        let file = create(&disk, "/f", &[1]);
        file.sync().unwrap();
        disk.rename(path("/f"), path("/g")).unwrap();
        assert_eq!(rule(&disk), None);
        write_all_at(&*file, &[2], 0).unwrap();
        disk.rename(path("/g"), path("/h")).unwrap();
        assert_eq!(rule(&disk), Some("rename of unsynced bytes"));
    }

    #[test]
    fn a_handle_opened_after_the_write_proves_nothing() {
        let disk = disk();
        create(&disk, "/f", &[1; 10]);
        disk.sync_dir(path("/")).unwrap();
        let later = disk.open(path("/f"), Open::Write).unwrap();
        write_all_at(&*later, &[1; 5], 0).unwrap();
        later.sync().unwrap();
        disk.claim_synced(path("/f"), 5).unwrap();
        assert_eq!(rule(&disk), None, "what it wrote again itself, it proves");
        disk.claim_synced(path("/f"), 6).unwrap();
        assert_eq!(rule(&disk), Some("synced without proof"));
    }

    #[test]
    fn a_claim_needs_a_sync_and_a_durable_name() {
        let disk = disk();
        let file = create(&disk, "/f", &[1; 10]);
        file.sync().unwrap();
        disk.claim_synced(path("/f"), 10).unwrap();
        assert_eq!(rule(&disk), Some("synced without its name"));

        let disk = super::disk();
        create(&disk, "/f", &[1; 10]);
        disk.sync_dir(path("/")).unwrap();
        disk.claim_synced(path("/f"), 10).unwrap();
        assert_eq!(rule(&disk), Some("synced without proof"));
    }

    #[test]
    fn a_claim_outlives_crashes() {
        let disk = disk();
        let file = create(&disk, "/f", &[1; 10]);
        file.sync().unwrap();
        disk.sync_dir(path("/")).unwrap();
        disk.claim_synced(path("/f"), 8).unwrap();
        let crashed = disk.crash(3);
        let file = crashed.open(path("/f"), Open::Write).unwrap();
        file.set_len(8).unwrap();
        assert_eq!(rule(&crashed), None);
        file.set_len(7).unwrap();
        assert_eq!(rule(&crashed), Some("cut below published"));
    }

    #[test]
    fn a_change_while_read_only_is_refused_and_breaks_the_rules() {
        let disk = disk();
        create(&disk, "/f", &[1]);
        disk.set_read_only(true);
        assert_eq!(read(&disk, "/f"), Some(vec![1]));
        assert_eq!(rule(&disk), None);
        assert!(disk.lock(path("/LOCK"), Lock::Shared).is_err());
        assert_eq!(rule(&disk), Some("change while read-only"));
        assert!(disk.remove_file(path("/f")).is_err());
    }

    #[test]
    fn a_leaked_handle_is_named() {
        let disk = disk();
        let file = create(&disk, "/f", &[1]);
        disk.audit_closed();
        assert!(disk.audit().unwrap().detail.contains("/f"));
        drop(file);
        assert_eq!(disk.handles(), 0);
    }

    #[test]
    fn a_loop_is_broken() {
        let disk = disk();
        let file = create(&disk, "/f", &[1]);
        disk.inject(disk.calls(), Fault::Error(Errno::Interrupted), Times::Sticky);
        disk.set_call_limit(1_000);
        assert!(write_all_at(&*file, &[1], 0).is_err());
        assert_eq!(rule(&disk), Some("hang"));
    }
}

mod names {
    use super::*;

    #[test]
    fn a_file_keeps_its_identity_through_renames_and_links() {
        let disk = disk();
        let id = create(&disk, "/f", &[1]).metadata().unwrap().id;
        disk.link(path("/f"), path("/g")).unwrap();
        assert_eq!(disk.metadata(path("/g")).unwrap().id, id);
        disk.remove_file(path("/f")).unwrap();
        assert_eq!(read(&disk, "/g"), Some(vec![1]));
        assert_ne!(create(&disk, "/f", &[1]).metadata().unwrap().id, id);
        assert!(disk.link(path("/f"), path("/g")).is_err());
    }

    #[test]
    fn calls_fail_as_those_of_an_operating_system_do() {
        let disk = disk();
        disk.create_dir(path("/d")).unwrap();
        create(&disk, "/d/f", &[1]);
        let kind = |result: io::Result<()>| result.unwrap_err().kind();
        assert_eq!(kind(disk.create_dir(path("/d"))), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.remove_dir(path("/d"))), io::ErrorKind::DirectoryNotEmpty);
        assert_eq!(kind(disk.remove_file(path("/d"))), io::ErrorKind::IsADirectory);
        assert_eq!(kind(disk.open(path("/d/f"), Open::CreateNew).map(drop)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.open(path("/x/f"), Open::CreateNew).map(drop)), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.open(path("/d/f/g"), Open::Read).map(drop)), io::ErrorKind::NotADirectory);
        assert_eq!(kind(disk.rename(path("/x"), path("/y"))), io::ErrorKind::NotFound);
        let reader = disk.open(path("/d/f"), Open::Read).unwrap();
        assert!(reader.write_at(&[1], 0).is_err() && reader.set_len(0).is_err());
    }

    #[test]
    fn a_directory_is_renamed_with_what_is_in_it() {
        let disk = disk();
        disk.create_dir(path("/d")).unwrap();
        create(&disk, "/d/f", &[1]).sync().unwrap();
        disk.sync_dir(path("/d")).unwrap();
        disk.rename(path("/d"), path("/e")).unwrap();
        disk.sync_dir(path("/")).unwrap();
        assert_eq!(found(&disk, "/e/f"), BTreeSet::from([Some(vec![1])]));
        disk.remove_file(path("/e/f")).unwrap();
        disk.remove_dir(path("/e")).unwrap();
        assert_eq!(disk.list(path("/")).unwrap(), []);
    }
}

#[test]
fn the_same_calls_have_the_same_digest_and_others_another() {
    let digest = |byte| {
        let disk = disk();
        disk.trace();
        create(&disk, "/f", &[byte; 20]).sync().unwrap();
        let arena = disk.open(path("/f"), Open::Write).unwrap().share(20).unwrap();
        drop(arena);
        assert_eq!(disk.take_trace().len() as u64, disk.calls());
        disk.digest()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}
