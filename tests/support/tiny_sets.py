"""Tiny copies of public data sets' layouts, made here: a few pictures each, none square.

A picture is 40 x 30 pixels of one colour with a white rectangle where its object is; `BOX` is that
rectangle's (left, top, right, bottom), the last two outside.
"""

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 30)
BOX = (20, 5, 30, 10)
SECOND = (2, 12, 8, 28)
"""Another object's rectangle."""
SYNSETS = ("n01440764", "n01443537", "n02084071")
"""Tench and goldfish, two of ImageNet's 1,000; dog, which is none of them."""


def rectangle(*boxes, size=SIZE):
    mask = np.zeros((size[1], size[0]), dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def photo(path, *boxes, size=SIZE, mode="RGB", orientation=None):
    """White rectangles on red; with an EXIF orientation, stored so that they are upright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8) + np.array([120, 20, 20], np.uint8)
    pixels[rectangle(*boxes, size=size)] = 255
    image = Image.fromarray(pixels).convert(mode)
    how = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = stored(image, orientation)
        how["exif"] = exif
    image.save(path, **how)
    return path


def stored(image, orientation):
    """The picture as a camera held otherwise stores it, turned back by `orientation`."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return image.transpose(undo[orientation]) if orientation in undo else image


def grey(path, values, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values).astype(dtype)).save(path)
    return path


def palette(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8), mode="L").convert("P")
    image = Image.frombytes("P", image.size, np.asarray(values, dtype=np.uint8).tobytes())
    # Colours far from their index, as in VOC: reading colours for numbers would show.
    image.putpalette([(37 * k + 11) % 256 for k in range(768)])
    image.save(path)
    return path


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def imagenet_s(root: Path) -> Path:
    written(root / "ImageNetS_categories_im919.txt", f"{SYNSETS[1]}\n{SYNSETS[0]}\nn00000001\n")
    for number, synset in enumerate(SYNSETS[:2], 2):
        photo(root / "validation" / synset / f"{synset}_1.JPEG", BOX)
        ids = rectangle(BOX) * number + rectangle(SECOND) * 1000
        if number == 3:
            ids[0, 0] = 2  # a pixel of the other class
        colours = np.stack([ids % 256, ids // 256, 0 * ids], -1)
        grey(root / "validation-segmentation" / synset / f"{synset}_1.png", colours)
    return root


def voc(root: Path) -> Path:
    """a: two dogs and a cat, with void; b: one person, a greyscale JPEG."""
    written(root / "ImageSets" / "Segmentation" / "val.txt", "a\nb\n")
    photo(root / "JPEGImages" / "a.jpg", BOX, SECOND)
    photo(root / "JPEGImages" / "b.jpg", BOX, mode="L")
    third = (0, 0, 4, 4)
    classes = 12 * rectangle(BOX, SECOND) + 8 * rectangle(third)
    objects = rectangle(BOX) + 2 * rectangle(SECOND) + 3 * rectangle(third)
    classes[29], objects[29] = 255, 255
    classes_b, objects_b = 15 * rectangle(BOX), 1 * rectangle(BOX)
    for name, kinds, things in (("a", classes, objects), ("b", classes_b, objects_b)):
        palette(root / "SegmentationClass" / f"{name}.png", kinds)
        palette(root / "SegmentationObject" / f"{name}.png", things)
    return root


def square(box):
    """COCO's polygon whose pixels are the box's."""
    left, top, right, bottom = box
    return [[left, top, right, top, right, bottom, left, bottom]]


def compressed(counts):
    """COCO's text of run lengths, from binary digits."""
    text = ""
    for n, count in enumerate(counts):
        value = count - counts[n - 2] if n > 2 else count
        groups = []
        while True:
            groups.append(value % 32)
            value //= 32
            if (value == 0 and groups[-1] < 16) or (value == -1 and groups[-1] >= 16):
                break
        text += "".join(chr(48 + g + 32 * (k + 1 < len(groups))) for k, g in enumerate(groups))
    return text


def runs(mask):
    """Run lengths down the columns, one pixel after another."""
    counts, last = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != last:
            counts.append(0)
            last = pixel
        counts[-1] += 1
    return counts


def annotation(number, image, category, segmentation, crowd=0):
    return {"id": number, "image_id": image, "category_id": category,
            "segmentation": segmentation, "iscrowd": crowd}  # fmt: skip


def coco(root: Path, name="val2017") -> Path:
    """7: two dogs (polygon, compressed) in a crowd of dogs; 3: a cat (plain run lengths); 9: cats
    as a crowd alone, and a dog; 11: nothing."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 30, "width": 40}
              for n in (7, 3, 9, 11)]  # fmt: skip
    for image in images:
        photo(root / name / image["file_name"], BOX, SECOND)
    size = [30, 40]
    second = {"size": size, "counts": compressed(runs(rectangle(SECOND)))}
    crowd = {"size": size, "counts": runs(rectangle((18, 3, 40, 20)))}
    plain = {"size": size, "counts": runs(rectangle(BOX))}
    notes = [
        annotation(1, 7, 18, square(BOX)),
        annotation(2, 7, 18, second),
        annotation(3, 7, 18, crowd, 1),
        annotation(4, 3, 17, plain),
        annotation(5, 9, 17, crowd, 1),
        annotation(6, 9, 18, square(BOX)),
    ]
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    written(
        root / "annotations" / f"instances_{name}.json",
        {"images": images, "annotations": notes, "categories": categories},
    )
    return root


def references():
    def said(reference, image, note, split, *texts):
        sentences = [{"sent": t, "raw": t, "tokens": t.split(), "sent_id": k}
                     for k, t in enumerate(texts)]  # fmt: skip
        return {"ref_id": reference, "image_id": image, "ann_id": note, "split": split,
                "category_id": 1, "sent_ids": [0, 1], "sentences": sentences}  # fmt: skip

    return [
        said(1, 5, 10, "val", "left dog", "the dog", "left dog"),
        said(2, 5, 11, "val", "right dog"),
        said(3, 6, 12, "val", "the dog"),
        said(4, 6, 12, "testA", "never read"),
    ]


def refcoco(root: Path, ending="p", protocol=2) -> Path:
    """Returns root/refcoco, with the pictures in root/images/mscoco/images/train2014."""
    folder = root / "refcoco"
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 30, "width": 40}
              for n in (5, 6)]  # fmt: skip
    for image in images:
        photo(root / "images/mscoco/images/train2014" / image["file_name"], BOX, SECOND)
    notes = [annotation(10, 5, 1, square(SECOND)), annotation(11, 5, 1, square(BOX)),
             annotation(12, 6, 1, square(BOX))]  # fmt: skip
    written(
        folder / "instances.json",
        {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "dog"}]},
    )
    if ending == "p":
        (folder / "refs(unc).p").write_bytes(pickle.dumps(references(), protocol))
    else:
        written(folder / "refs(unc).json", references())
    return folder


def openimages(root: Path) -> Path:
    """a: a dog of two points, one off it, one unsure, one judged both ways; b: no "yes"."""
    photo(root / "validation" / "a.jpg", BOX)
    photo(root / "validation" / "b.jpg", BOX)
    written(
        root / "oidv7-class-descriptions.csv",
        'LabelName,DisplayName\n/m/dog,Dog\n/m/cat,"Cat, small"\n',
    )
    points = [
        ("a", 0.5, 0.25, "/m/dog", "yes"),  # column 20, row 7
        ("a", 1.0, 1.0, "/m/dog", "yes"),  # the last pixel
        ("a", 0.0, 0.0, "/m/dog", "no"),
        ("a", 0.25, 0.5, "/m/dog", "unsure"),
        ("a", 0.1, 0.1, "/m/dog", "yes"),
        ("a", 0.101, 0.101, "/m/dog", "no"),  # the same pixel
        ("a", 0.3, 0.3, "/m/cat", "no"),
        ("b", 0.3, 0.3, "/m/cat", "no"),
    ]
    head = "ImageId,X,Y,Label,EstimatedYesNo,Source,YesVotes,NoVotes,UnsureVotes,TextLabel"
    rows = [",".join(map(str, point)) + ",cc,1,0,0," for point in points]
    written(root / "validation-points.csv", "\n".join([head, *rows]) + "\n")
    return root


def flickr_object(names, box=None):
    inner = "".join(f"<name>{name}</name>" for name in names)
    if box:
        left, top, right, bottom = box
        inner += (f"<bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
                  f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>")  # fmt: skip
    else:
        inner += "<nobndbox>1</nobndbox>"
    return f"<object>{inner}</object>"


def flickr_xml(*objects, size=SIZE):
    return (f"<annotation><filename>1.jpg</filename><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height><depth>3</depth></size>{''.join(objects)}"
            "</annotation>")  # fmt: skip


def flickr30k(root: Path) -> Path:
    """1: two dogs (one entity, two boxes), a man (one), grass without a box; 2: in no test."""
    photo(root / "flickr30k-images" / "1.jpg", BOX, SECOND)
    photo(root / "flickr30k-images" / "2.jpg", BOX)
    written(
        root / "Annotations" / "1.xml",
        flickr_xml(
            flickr_object(["70"], BOX),
            flickr_object(["70"], SECOND),
            flickr_object(["71"], BOX),
            flickr_object(["72"]),
        ),
    )
    written(root / "Annotations" / "2.xml", flickr_xml(flickr_object(["80"], BOX)))
    written(
        root / "Sentences" / "1.txt",
        "[/EN#70/animals Two dogs] meet [/EN#71/people/other A man] on [/EN#72/scene grass] .\n"
        "[/EN#70/animals The dogs] see [/EN#0/notvisual it] , [/EN#70/animals Two dogs] .\n",
    )
    written(root / "Sentences" / "2.txt", "[/EN#80/people A man] alone .\n")
    written(root / "test.txt", "1\n")
    return root


class Cells(dict):
    """What h5py gives of a MATLAB file: names and references that are looked up alike."""

    def __init__(self, pictures, masks, synsets):
        super().__init__()
        self["value/img"] = self.column([np.asarray(each).T for each in pictures])
        self["value/gt"] = self.column(
            [self.column([np.asarray(each).astype(np.uint8).T]) for each in masks]
        )
        codes = [np.array([[ord(letter)] for letter in each], np.uint16) for each in synsets]
        self["value/target"] = self.column(codes)

    def column(self, contents):
        references = np.empty((len(contents), 1), dtype=object)
        for n, content in enumerate(contents):
            references[n, 0] = f"#refs#/{len(self)}"
            self[references[n, 0]] = content
        return references


def segments(pictures=2):
    """A tench on a picture of colours, a dog on a grey one."""
    colour = np.zeros((30, 40, 3), dtype=np.uint8)
    colour[rectangle(BOX)] = (200, 100, 50)
    plain = np.zeros((20, 50), dtype=np.uint8)
    plain[3:5, 10:40] = 255
    masks = [rectangle(BOX), plain > 0]
    return Cells([colour, plain][:pictures], masks[:pictures],
                 [SYNSETS[0], SYNSETS[2]][:pictures])  # fmt: skip


def mat(path: Path) -> Path:
    """What every v7.3 file begins with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(64))
    return path
