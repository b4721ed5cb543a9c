"""test_service_container: the files that the image gets are all that the service needs."""

import json
import re
import shutil

import serving
from serving import Service, as_json, some_images


def test_the_image_has_all_files(model, tmp_path, monkeypatch):
    root = serving.SERVICE.parents[1]
    final = (serving.SERVICE / "Containerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    copied = re.findall(r"^COPY (?!--from)(.*)$", final, re.MULTILINE)
    assert copied
    for line in copied:
        *sources, target = line.split()
        assert target.startswith("/service")
        for source in sources:
            if target.endswith("/"):
                folder = tmp_path / target.strip("/")
                folder.mkdir(exist_ok=True)
                shutil.copy(root / source, folder)
            else:
                shutil.copytree(root / source, tmp_path / target.strip("/"))
    shutil.copy(model, tmp_path / "service" / "model.npz")
    monkeypatch.setattr(serving, "SERVICE", tmp_path / "service")
    with Service(tmp_path / "service" / "model.npz", tmp_path) as service:
        assert json.loads(service.ask("GET", "/health")[2])["status"] == "ready"
        assert service.predict(as_json(some_images(1)))[0] == 200
        assert service.ask("GET", "/")[0] == 200
