"""Make ``reference.pptx``, the theme of the presentation, from pandoc's own.

    python slides/make_reference.py

Or open ``reference.pptx`` in PowerPoint, LibreOffice or Keynote, change its slide master, and
save it; only the word FOOTER on the layouts must stay, which each build replaces.
"""

import io
import re
import subprocess
import zipfile
from pathlib import Path

import pypandoc

BLUE, DARK, FAINT = "0072B2", "222222", "5A6475"
MARGIN, FULL = 411480, 8321040  # EMU; 914,400 are an inch, and a slide is 10 x 5.625 inches
TOP, HEIGHT = 1005840, 3703320
LEFT_WIDTH, RIGHT_START = 3108960, 3611880
TEXT_HEIGHT = 1188720
PLAIN = '<a:lstStyle><a:lvl1pPr><a:defRPr sz="1600"/></a:lvl1pPr></a:lstStyle>'
BAR = f"""<p:sp>
<p:nvSpPr><p:cNvPr id="90" name="Bar"/><p:cNvSpPr/><p:nvPr userDrawn="1"/></p:nvSpPr>
<p:spPr><a:xfrm><a:off x="0" y="274320"/><a:ext cx="109728" cy="548640"/></a:xfrm>
<a:prstGeom prst="rect"><a:avLst/></a:prstGeom>
<a:solidFill><a:srgbClr val="{BLUE}"/></a:solidFill><a:ln><a:noFill/></a:ln></p:spPr></p:sp>"""


def place(x, y, width, height):
    """Return a position and size as XML, in EMU."""
    return f'<a:xfrm><a:off x="{x}" y="{y}"/><a:ext cx="{width}" cy="{height}"/></a:xfrm>'


def put(text, placeholder, where):
    """Move the shape whose ``<p:ph …>`` matches to another place."""
    pattern = (
        rf"(<p:ph {placeholder}[^>]*/></p:nvPr></p:nvSpPr>)"
        r"<p:spPr(?:/>|>(?:<a:xfrm>.*?</a:xfrm>)?(.*?)</p:spPr>)"
    )
    new, count = re.subn(pattern, rf"\1<p:spPr>{where}\2</p:spPr>", text, count=1, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"pandoc's reference has no {placeholder}; adapt make_reference.py.")
    return new


def theme(text):
    """Set the colours and the typeface, one that every office program has or replaces."""
    colours = {"dk2": DARK, "accent1": BLUE, "accent2": "D55E00", "accent3": "009E73",
               "accent4": "CC79A7", "accent5": "56B4E9", "accent6": "8B6F00", "hlink": BLUE,
               "folHlink": BLUE}  # fmt: skip
    for name, value in colours.items():
        text = re.sub(rf"(<a:{name}>).*?(</a:{name}>)", rf'\1<a:srgbClr val="{value}"/>\2', text)
    text = re.sub(r"(<a:dk1>).*?(</a:dk1>)", rf'\1<a:srgbClr val="{DARK}"/>\2', text)
    return text.replace('<a:latin typeface="Calibri"/>', '<a:latin typeface="Arial"/>')


def master(text):
    """Set places and sizes; text that does not fit shall be seen, so nothing shrinks."""
    text = text.replace("<a:normAutofit/>", "<a:noAutofit/>")
    text = put(text, 'type="title"', place(MARGIN, 182880, FULL, 731520))
    text = put(text, 'type="body"', place(MARGIN, TOP, FULL, HEIGHT))
    text = put(text, 'type="ftr"', place(MARGIN, 4846320, 6858000, 228600))
    text = put(text, 'type="sldNum"', place(7818120, 4846320, 914400, 228600))
    title = re.search(r"<p:titleStyle>.*</p:titleStyle>", text)[0]
    new = title.replace('algn="ctr"', 'algn="l"').replace('sz="3300"', 'sz="2600" b="1"')
    body = text.replace(title, new.replace('"tx1"', '"accent1"'))
    sizes = {"2400": "2000", "2100": "1800", "1800": "1600"}  # of the first three levels
    body = re.sub(r'sz="(2400|2100|1800)" kern', lambda m: f'sz="{sizes[m[1]]}" kern', body)
    body = body.replace('marL="342900" indent="-342900"', 'marL="228600" indent="-228600"')
    body = body.replace('<a:spcPct val="20000"/>', '<a:spcPct val="35000"/>')
    body = body.replace('<a:lvl1pPr algn="ctr"><a:defRPr sz="900">',
                        '<a:lvl1pPr algn="l"><a:defRPr sz="900">')  # fmt: skip
    body = body.replace("<p:txStyles>", '<p:hf hdr="0" dt="0"/><p:txStyles>')  # pandoc asks for it
    first = body.index("<p:sp>")
    return body[:first] + BAR + body[first:]


def layout(text):
    """Give every layout the footer, and those that the deck uses their places."""
    name = re.search(r'<p:cSld name="([^"]*)"', text)[1]
    footer = r'(<p:ph type="ftr".*?<a:p>)(<a:endParaRPr)'
    text = re.sub(footer, r'\1<a:r><a:rPr lang="en-US"/><a:t>FOOTER</a:t></a:r>\2', text, count=1)
    text = re.sub(r'<p:sp><p:nvSpPr>(?:(?!</p:sp>).)*?<p:ph type="dt".*?</p:sp>', "", text, count=1)
    if name == "Two Content":
        text = put(text, 'sz="half" idx="1"', place(MARGIN, TOP, LEFT_WIDTH, HEIGHT))
        right = place(RIGHT_START, TOP, MARGIN + FULL - RIGHT_START, HEIGHT)
        text = put(text, 'sz="half" idx="2"', right).replace('sz="2100"', 'sz="1600"')
    if name == "Content with Caption":  # pandoc's for text followed by a table or a picture
        text = put(text, 'type="title"', place(MARGIN, 182880, FULL, 731520))
        text = put(text, 'type="body" sz="half" idx="2"', place(MARGIN, TOP, FULL, TEXT_HEIGHT))
        below = TOP + TEXT_HEIGHT
        text = put(text, 'idx="1"', place(MARGIN, below, FULL, HEIGHT - TEXT_HEIGHT))
        text = re.sub(r"<a:lstStyle>.*?</a:lstStyle>", PLAIN, text, flags=re.DOTALL)
        text = text.replace(PLAIN, "<a:lstStyle/>", 1)  # the title keeps its size
        text = text.replace('anchor="b"', 'anchor="ctr"')
    if name == "Title Slide":
        text = put(text, 'type="ctrTitle"', place(MARGIN, 1188720, FULL, 1188720))
        text = put(text, 'type="subTitle"', place(MARGIN, 2468880, FULL, 1463040))
        text = text.replace('algn="ctr"', 'algn="l"')
    return text


def main():
    """Write ``reference.pptx`` beside this script."""
    pandoc = [pypandoc.get_pandoc_path(), "--print-default-data-file", "reference.pptx"]
    default = subprocess.run(pandoc, capture_output=True, check=True).stdout
    target = Path(__file__).with_name("reference.pptx")
    with (
        zipfile.ZipFile(io.BytesIO(default)) as old,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            for pattern, change in (
                ("ppt/theme/theme1.xml", theme),
                ("ppt/slideMasters/slideMaster1.xml", master),
                ("ppt/slideLayouts/slideLayout", layout),
            ):
                if name.startswith(pattern):
                    data = change(data.decode()).encode()
            if name == "ppt/presentation.xml":  # tables and captions
                data = data.replace(b'<a:defRPr sz="1800"', b'<a:defRPr sz="1400"')
            new.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()
