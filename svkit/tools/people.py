"""Lists the people of a folder or a manifest, for `svkit enroll`."""

from pathlib import Path

from svkit.corpora.layouts.folder import list_recordings
from svkit.corpora.scan import ScanOptions
from svkit.progress import Progress
from svkit.store.audio_file import Channel, Place
from svkit.store.gallery import check_name
from svkit.store.manifest import CHANNEL_COLUMN, Manifest, read_manifest


def list_people(
    source: Path, scan: ScanOptions, progress: Progress, *, speaker_regex: str | None = None
) -> tuple[dict[str, tuple[Place, ...]], dict[Place, Channel]]:
    """Return the recordings of each person, and the channels to use of them.

    `source` is a folder with a directory for each person, whose files are all examined first, or a manifest. Channels
    are those that the scan chose or the manifest names.

    Raises:
        ConfigError: the name of a directory cannot be a person's, or `speaker_regex` cannot be used.
        DataError: there are no recordings, bad files are not left out, or the manifest cannot be read.
    """
    if source.is_dir():
        table, _ = list_recordings([source], scan, progress, speaker_regex=speaker_regex)
        manifest = Manifest(source, source, table)
    else:
        manifest = read_manifest(source)
    people: dict[str, tuple[Place, ...]] = {}
    channels: dict[Place, Channel] = {}
    for row, speaker in enumerate(manifest.speaker_ids):
        name, place = check_name(speaker), manifest.audio(row)
        people[name] = (*people.get(name, ()), place)
        if CHANNEL_COLUMN in manifest.table.columns:
            channels[place] = manifest.channel(row)
    return people, channels
