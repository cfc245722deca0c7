"""Read a report as a program would: references to the outside, tables, text."""

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "link", "base", "source", "wbr"}
ADDRESSES = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background",
             "xlink:href", "ping", "manifest", "cite", "code", "archive"}  # fmt: skip
FORBIDDEN = {"link", "iframe", "frame", "object", "embed", "base", "form", "audio",
             "video", "source", "track", "applet", "portal"}  # fmt: skip
CALLS = re.compile(r"fetch\s*\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\s*\(", re.I)


def _hash(script):
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


class Page(HTMLParser):
    """Collects what matters."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.outside, self.tables, self.ids, self.links = [], [], set(), []
        self.images, self.text, self.open, self.captions = [], [], [], []
        self.scripts, self.policy = [], ""
        self.feed(html)
        self.close()
        # a script runs only where the policy names its hash: anything else is a stranger
        self.outside += [f"<script> {s[:80]}" for s in self.scripts if _hash(s) not in self.policy]
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in FORBIDDEN:
            self.outside.append(f"<{tag}>")
        if tag == "script":
            self.scripts.append("")
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        for name, value in attributes.items():
            value = (value or "").strip()
            if name in ADDRESSES and not value.startswith(("data:", "#")):
                self.outside.append(f"{tag} {name}={value[:80]}")
            if name == "style":
                self._style(value)
            if name.startswith("on"):
                self.outside.append(f"{tag} {name}")
        if tag == "meta" and (attributes.get("http-equiv") or "").lower() == "refresh":
            self.outside.append("meta refresh")
        self.ids.update({attributes["id"]} if "id" in attributes else set())
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        if tag == "table":
            self.tables.append({**attributes, "rows": [], "headers": []})
        if tag == "tr" and self.tables:
            self.tables[-1]["rows"].append({**attributes, "cells": []})
        if tag in ("td", "th") and self.tables:
            cell = {**attributes, "tag": tag, "text": ""}
            self.tables[-1]["rows"][-1]["cells"].append(cell)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if "style" in self.open:
            self._style(data)
            return
        if CALLS.search(data) and "pre" not in self.open:
            self.outside.append(f"call {data[:80]}")
        if "script" in self.open:
            self.scripts[-1] += data
            return
        self.text.append(data)
        if self.tables and {"td", "th"} & set(self.open):
            self.tables[-1]["rows"][-1]["cells"][-1]["text"] += data

    def _style(self, text):
        for address in re.findall(r"url\(\s*['\"]?([^)'\"]*)", text, re.I):
            if not address.startswith(("data:", "#")):
                self.outside.append(f"url({address[:80]})")
        if re.search(r"@import|image-set\(|src\(", text, re.I):
            self.outside.append("@import")
