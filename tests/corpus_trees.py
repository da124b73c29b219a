"""Miniature trees of public corpora, in the layout they are distributed in."""

import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import soundfile

from svkit.progress import SilentProgress


class Counter:
    def __init__(self, total):
        self.total, self.done = total, 0

    def advance(self, amount=1, **fields):
        self.done += amount


class Notes(SilentProgress):
    """Keeps what the user is told."""

    def __init__(self):
        self.notes = []
        self.tasks = {}

    def task(self, description, total, begun=0):
        self.tasks[description] = Counter(total)
        return nullcontext(self.tasks[description])

    def note(self, message):
        self.notes.append(message)

    def all(self):
        return "\n".join(self.notes)


def sound(path, seconds=0.6, rate=16000):
    """Write noise that differs from file to file; the format follows the suffix."""
    rng = np.random.default_rng(zlib.crc32("/".join(Path(path).parts[-4:]).encode()))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    samples = np.round(rng.uniform(-0.5, 0.5, round(seconds * rate)) * 32767) / 32768
    soundfile.write(path, samples, rate)
    return samples


def voxceleb(root, suffix=".wav"):
    """VoxCeleb1 test and dev, VoxCeleb2 dev and test."""
    for directory, speakers in {
        "voxceleb1/dev/wav": ("id10001", "id11251"),
        "voxceleb1/test/wav": ("id10270", "id10309"),
        "voxceleb2/dev/wav": ("id00012", "id00015", "id09272", "id10000"),
    }.items():
        for speaker in speakers:
            for video in ("AbC-_1", "x2"):
                sound(root / directory / speaker / video / f"00001{suffix}")
    return root


def voxblink2(root):
    for speaker in range(6):
        for video in ("DwgYRqnQZHM", "x_y-0000001"):
            for number in range(2):
                sound(root / "audio_cut" / f"id{speaker:06d}" / video / f"{number:05d}.wav")
    (root / "meta" / "id000000" / "DwgYRqnQZHM").mkdir(parents=True)
    (root / "meta" / "id000000" / "DwgYRqnQZHM" / "00000.txt").write_text("time stamps\n")
    return root


CNCELEB_ENROLL = ("id00800", "id00801")


def cnceleb(root):
    """CN-Celeb1 and 2: long and short training utterances, two evaluation speakers."""
    first, second = root / "CN-Celeb_flac", root / "CN-Celeb2_flac"
    for place, speakers in ((first, ("id00000", "id00001")), (second, ("id10000", "id10001"))):
        for speaker in speakers:
            sound(place / "data" / speaker / "singing-01-001.flac", 6)
            for number, seconds in ((1, 2), (2, 2), (3, 2), (4, 1)):
                sound(place / "data" / speaker / f"live_broadcast-01-{number:03d}.flac", seconds)
            sound(place / "data" / speaker / "vlog-02-001.flac", 3)
    enroll, names, trials = [], [], []
    for speaker in CNCELEB_ENROLL:
        parts = [f"{speaker}/interview-01-001", f"{speaker}/interview-01-002"]
        joined = np.concatenate([sound(first / "data" / f"{part}.flac", 1) for part in parts])
        tests = [f"{speaker}-singing-01-001", f"{speaker}-speech-02-001"]
        for name in tests:
            copy = first / "data" / speaker / f"{name.partition('-')[2]}.flac"
            samples = sound(copy, 0.4)
            (first / "eval" / "test").mkdir(parents=True, exist_ok=True)
            soundfile.write(first / "eval" / "test" / f"{name}.flac", samples, 16000)
            trials += [
                f"{other}-enroll test/{name}.wav {int(other == speaker)}\n" for other in CNCELEB_ENROLL
            ]
        (first / "eval" / "enroll").mkdir(parents=True, exist_ok=True)
        soundfile.write(first / "eval" / "enroll" / f"{speaker}-enroll.flac", joined, 16000)
        enroll.append(f"{speaker}-enroll enroll/{speaker}-enroll.wav\n")
        names.append(f"{speaker}-enroll {' '.join(f'{part}.wav' for part in parts)}\n")
    lists = first / "eval" / "lists"
    lists.mkdir()
    (lists / "enroll.lst").write_text("".join(enroll))
    (lists / "enroll.map").write_text("".join(names))
    (lists / "trials.lst").write_text("".join(trials))
    (first / "dev").mkdir()
    (first / "dev" / "dev.lst").write_text("id00000\nid00001\n")
    (second / "spk.lst").write_text("id10000\nid10001\n")
    return root


def librispeech(root, subsets=("train-clean-100", "dev-clean", "test-clean", "test-other")):
    lines = ["; comment\n", ";ID  |SEX| SUBSET           |MINUTES| NAME\n"]
    for index, subset in enumerate(subsets):
        for speaker in range(4):
            name = f"{100 * (index + 1) + speaker}"
            lines.append(f"{name:4} | {'FM'[speaker % 2]} | {subset:16} | 25.03 | A | B Name\n")
            for chapter in ("1001", "1002"):
                sound(root / subset / name / chapter / f"{name}-{chapter}-0000.flac")
                (root / subset / name / chapter / f"{name}-{chapter}.trans.txt").write_text("text\n")
    (root / "SPEAKERS.TXT").write_text("".join(lines))
    return root


def kaldi(root, audio, suffix=".wav"):
    """A data directory: six speakers of two utterances each."""
    root.mkdir(parents=True, exist_ok=True)
    names = [(f"s{speaker}-u{number}", f"s{speaker}") for speaker in range(6) for number in range(2)]
    for name, _ in names:
        sound(audio / f"{name}{suffix}")
    (root / "wav.scp").write_text("".join(f"{name} {audio / name}{suffix}\n" for name, _ in names))
    (root / "utt2spk").write_text("".join(f"{name} {speaker}\n" for name, speaker in names))
    return root


def musan(root):
    for name in ("noise/free-sound/noise-free-sound-0000", "noise/sound-bible/noise-sound-bible-0000",
                 "music/fma/music-fma-0000", "music/hd-classical/music-hd-0000", "speech/us-gov/speech-us-gov-0000",
                 "speech/librivox/speech-librivox-0000"):  # fmt: skip
        sound(root / f"{name}.wav")
    (root / "music" / "fma" / "ANNOTATIONS").write_text("music-fma-0000 rock N artist\n")
    return root


def rirs(root):
    for kind in ("smallroom", "mediumroom", "largeroom"):
        sound(root / "simulated_rirs" / kind / "Room001" / "Room001-00001.wav", 0.05)
        for name in ("rir_list", "room_info"):
            (root / "simulated_rirs" / kind / name).write_text("")
    real = root / "real_rirs_isotropic_noises"
    names = ("RWCP_type1_rir_cirline_ofc_imp_rev.wav", "air_type1_air_binaural_aula_carolina_0_1.wav")
    for name in (*names, "RVB2014_type1_noise_largeroom1_1.wav"):
        sound(real / name, 0.05)
    (real / "rir_list").write_text(
        "".join(
            f"--rir-id {number:05d} --room-id room{number} RIRS_NOISES/real_rirs_isotropic_noises/{name}\n"
            for number, name in enumerate(names, start=1)
        )
    )
    (real / "noise_list").write_text("")
    sound(root / "pointsource_noises" / "noise-free-sound-0000.wav")
    return root
