"""The Engine itself, its images, networks and volumes."""

from __future__ import annotations

from tests.sandbox.talk import LABELS, TAG, Talk, image_archive, tar_of


def ask_daemon(talk: Talk) -> None:
    ask = talk.ask
    ask("ping", "GET", "/v1.41/_ping")
    ask("version", "GET", "/version", pick="ApiVersion MinAPIVersion Os")
    ask("version too new", "GET", "/v1.99/version")
    ask("version too old", "GET", "/v1.2/version")
    ask("unknown page", "GET", "/nonsense")
    ask("unknown method", "PUT", "/version")
    ask(
        "info",
        "GET",
        "/info",
        pick="Containers ContainersRunning ContainersStopped Images OSType DefaultRuntime LoggingDriver",
    )


def ask_images(talk: Talk, program: bytes) -> None:
    ask = talk.ask
    ask("inspect missing image", "GET", f"/images/{TAG}/json")
    ask("delete missing image", "DELETE", f"/images/{TAG}")
    ask("load rubbish", "POST", "/images/load", b"this is no archive")
    ask("load without manifest", "POST", "/images/load", tar_of({"x": b"x"}))
    ask("load quietly", "POST", "/images/load", image_archive({"derper": program}), query={"quiet": "1"})
    ask("load again", "POST", "/images/load", image_archive({"derper": program}), query={"quiet": "0"})
    ask(
        "load another",
        "POST",
        "/images/load",
        image_archive({"derper": program}, "derpmgmt/other:1", Labels={"a": "b"}),
    )
    picked = "RepoTags RepoDigests Os Architecture Created Config.Entrypoint Config.User Config.Labels Config.Cmd RootFS.Type"
    image = ask("inspect image", "GET", f"/images/{TAG}/json", pick=picked).json
    ask("inspect image by id", "GET", f"/images/{image['Id']}/json", pick="RepoTags")
    ask("inspect image by bare id", "GET", f"/images/{image['Id'][7:]}/json", pick="RepoTags")
    ask("inspect image by short id", "GET", f"/images/{image['Id'][7:19]}/json", pick="RepoTags")
    ask("inspect image without tag", "GET", "/images/derpmgmt/conversation/json")
    picked = "0.RepoTags 0.RepoDigests 0.Labels 0.Containers 0.ParentId 0.Created 0.SharedSize"
    ask(
        "list images by label",
        "GET",
        "/images/json",
        query={"filters": '{"label":["derpmgmt.content=abc"]}'},
        pick=picked,
    )
    ask(
        "list images by name",
        "GET",
        "/images/json",
        query={"filters": '{"reference":["derpmgmt/other"]}'},
        pick="0.RepoTags",
    )
    ask("list no images", "GET", "/images/json", query={"filters": '{"label":["no=such"]}'})
    ask("list images bad filter", "GET", "/images/json", query={"filters": '{"colour":["red"]}'})
    ask("list images broken filter", "GET", "/images/json", query={"filters": "{"})
    ask("delete image", "DELETE", "/images/derpmgmt/other:1")


def ask_networks_and_volumes(talk: Talk) -> None:
    ask = talk.ask
    ask("inspect missing network", "GET", "/networks/derpmgmt")
    body = {"Name": "derpmgmt", "CheckDuplicate": True, "Driver": "bridge", "Labels": LABELS}
    ask("create network", "POST", "/networks/create", body)
    ask("create network again", "POST", "/networks/create", body)
    ask("create network bad driver", "POST", "/networks/create", {"Name": "x", "Driver": "warp"})
    ask(
        "inspect network",
        "GET",
        "/networks/derpmgmt",
        pick="Name Driver Scope Labels Containers Internal Options",
    )
    ask(
        "list networks",
        "GET",
        "/networks",
        query={"filters": '{"name":["derpmgmt"]}'},
        pick="0.Name 0.Labels",
    )
    ask("list no networks", "GET", "/networks", query={"filters": '{"name":["no-such"]}'})
    ask("inspect missing volume", "GET", "/volumes/v1")
    ask(
        "create volume",
        "POST",
        "/volumes/create",
        {"Name": "v1", "Labels": LABELS},
        pick="Name Driver Labels Options Scope",
    )
    ask(
        "create volume again",
        "POST",
        "/volumes/create",
        {"Name": "v1"},
        pick="Name Driver Labels Options Scope",
    )
    ask("create volume bad name", "POST", "/volumes/create", {"Name": "a/b"})
    ask("inspect volume", "GET", "/volumes/v1", pick="Name Driver Labels Options Scope")
    ask(
        "list volumes",
        "GET",
        "/volumes",
        query={"filters": '{"label":["derpmgmt.panel=conversation"]}'},
        pick="Warnings Volumes.0.Name",
    )
    ask("list no volumes", "GET", "/volumes", query={"filters": '{"name":["no-such"]}'})
    ask("delete missing volume", "DELETE", "/volumes/no-such")
