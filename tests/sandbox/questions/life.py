"""A container's life: start, stop, files, changes by hand, removal."""

from __future__ import annotations

from tests.sandbox.talk import TAG, Talk, create_body, tar_of

STATE = "State.Status State.Running State.Paused State.Restarting State.OOMKilled State.Dead State.ExitCode State.Error"
INSPECT = STATE + (
    " Name RestartCount Path Args Image Driver Platform Config.User Config.Image Config.Labels Config.Cmd Config.Entrypoint"
    " Config.ExposedPorts Config.Volumes Config.WorkingDir Config.AttachStdin Config.Tty Config.StopSignal"
    " HostConfig.Binds HostConfig.NetworkMode HostConfig.PortBindings HostConfig.RestartPolicy HostConfig.ReadonlyRootfs"
    " HostConfig.CapDrop HostConfig.CapAdd HostConfig.SecurityOpt HostConfig.Memory HostConfig.MemorySwap HostConfig.PidsLimit"
    " HostConfig.LogConfig HostConfig.Mounts HostConfig.Privileged HostConfig.AutoRemove HostConfig.Tmpfs"
    " HostConfig.Ulimits HostConfig.NanoCpus HostConfig.PidMode HostConfig.IpcMode HostConfig.ShmSize"
    " HostConfig.PublishAllPorts HostConfig.Init HostConfig.OomKillDisable HostConfig.MaskedPaths"
    " Mounts.0.Type Mounts.0.Name Mounts.0.Destination Mounts.0.Driver Mounts.0.Mode Mounts.0.RW Mounts.0.Propagation"
    " NetworkSettings.Ports NetworkSettings.Networks.derpmgmt.NetworkID NetworkSettings.Networks.derpmgmt.Aliases"
)
LISTED = (
    "0.Names 0.Image 0.ImageID 0.Command 0.Labels 0.State 0.HostConfig 0.SizeRw 0.Mounts.0.Type 0.Mounts.0.Name"
    " 0.Mounts.0.Destination 0.NetworkSettings.Networks.derpmgmt.NetworkID"
)
OURS = '{"label":["derpmgmt.panel=conversation"]}'


def ask_life(talk: Talk, files: dict[str, bytes]) -> None:
    ask = talk.ask
    one = "/containers/one"
    for verb in ("start", "stop", "kill"):
        ask(f"{verb} unknown", "POST", f"{one}/{verb}")
    ask("remove unknown", "DELETE", one)
    ask("inspect unknown", "GET", f"{one}/json")
    ask("logs of unknown", "GET", f"{one}/logs", query={"stdout": "1"})
    ask("put into unknown", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/data"})
    ask(
        "", "POST", "/containers/create", create_body(talk.address, 20001, 20002, "v1"), query={"name": "one"}
    )
    ask(
        "name taken",
        "POST",
        "/containers/create",
        create_body(talk.address, 20003, 20004, "v1"),
        query={"name": "one"},
    )
    ask("inspect created", "GET", f"{one}/json", pick=INSPECT)
    ask("list only running", "GET", "/containers/json", query={"filters": OURS})
    ask(
        "list created",
        "GET",
        "/containers/json",
        query={"filters": OURS, "all": "1"},
        pick=LISTED + " 0.Status 0.Ports",
    )
    ask("put into read-only root", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/"})
    ask("put into missing folder", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/nowhere"})
    ask("put into a file", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/derper"})
    ask("put without path", "PUT", f"{one}/archive", tar_of({"x": b"x"}))
    ask("put rubbish", "PUT", f"{one}/archive", b"this is no archive", query={"path": "/data"})
    ask(
        "put into missing folder of the volume",
        "PUT",
        f"{one}/archive",
        tar_of({"x": b"x"}),
        query={"path": "/data/sub"},
    )
    ask("put out of the volume", "PUT", f"{one}/archive", tar_of({"../../x": b"x"}), query={"path": "/data"})
    ask("put into the volume", "PUT", f"{one}/archive", tar_of(files), query={"path": "/data"})
    ask("get a file", "GET", f"{one}/archive", query={"path": "/data/derper.key"})
    ask("get a missing file", "GET", f"{one}/archive", query={"path": "/data/none"})
    ask("stop created", "POST", f"{one}/stop")
    ask("kill created", "POST", f"{one}/kill")
    ask("logs of created", "GET", f"{one}/logs", query={"stdout": "1", "stderr": "1"})
    ask("logs of no stream", "GET", f"{one}/logs")
    ask("start", "POST", f"{one}/start")
    ask("start again", "POST", f"{one}/start")
    ask("inspect running", "GET", f"{one}/json", pick=INSPECT)
    ask("list running", "GET", "/containers/json", query={"filters": OURS}, pick=LISTED + " 0.Ports")
    ask("list by name", "GET", "/containers/json", query={"filters": '{"name":["on"]}'}, pick="0.Names")
    ask("list by state", "GET", "/containers/json", query={"filters": '{"status":["exited"]}'})
    ask("list by unknown state", "GET", "/containers/json", query={"filters": '{"status":["flying"]}'})
    ask("list by unknown filter", "GET", "/containers/json", query={"filters": '{"colour":["red"]}'})
    ask("put while running", "PUT", f"{one}/archive", tar_of({"more": b"x"}), query={"path": "/data"})
    ask("put into root while running", "PUT", f"{one}/archive", tar_of({"x": b"x"}), query={"path": "/"})
    ask("unknown signal", "POST", f"{one}/kill", query={"signal": "SHOUT"})
    ask("remove running", "DELETE", one)
    ask("delete volume in use", "DELETE", "/volumes/v1")
    ask("delete image in use", "DELETE", f"/images/{TAG}")
    ask("delete network in use", "DELETE", "/networks/derpmgmt")
    ask("stop", "POST", f"{one}/stop", query={"t": "2"})
    ask("stop again", "POST", f"{one}/stop")
    ask("kill stopped", "POST", f"{one}/kill")
    ask("inspect stopped", "GET", f"{one}/json", pick=STATE + " RestartCount NetworkSettings.Ports")
    ask("start after stop", "POST", f"{one}/start")
    ask("kill", "POST", f"{one}/kill")
    talk.until_ended(one)
    ask("inspect killed", "GET", f"{one}/json", pick=STATE)
    ask("start after kill", "POST", f"{one}/start")
    ask("", "POST", f"{one}/stop", query={"t": "2"})


def ask_changes_by_hand(talk: Talk) -> None:
    ask = talk.ask
    one, picked = (
        "/containers/one",
        "HostConfig.Memory HostConfig.MemorySwap HostConfig.PidsLimit HostConfig.RestartPolicy",
    )
    ask("start before changes", "POST", f"{one}/start")
    ask(
        "",
        "POST",
        "/containers/create",
        create_body(talk.address, 20041, 20042, "v1"),
        query={"name": "other"},
    )
    ask("rename unknown", "POST", "/containers/none/rename", query={"name": "uno"})
    ask("rename to a taken name", "POST", f"{one}/rename", query={"name": "other"})
    ask("rename badly", "POST", f"{one}/rename", query={"name": "a/b"})
    ask("rename to itself", "POST", f"{one}/rename", query={"name": "one"})
    ask("rename", "POST", f"{one}/rename", query={"name": "uno"})
    ask("inspect by old name", "GET", f"{one}/json")
    ask("rename back", "POST", "/containers/uno/rename", query={"name": "one"})
    ask("", "DELETE", "/containers/other")
    ask(
        "update",
        "POST",
        f"{one}/update",
        {"Memory": 134217728, "PidsLimit": 50, "RestartPolicy": {"Name": "always"}},
    )
    ask("inspect updated", "GET", f"{one}/json", pick=picked)
    ask("update badly", "POST", f"{one}/update", {"RestartPolicy": {"Name": "sometimes"}})
    ask("disconnect", "POST", "/networks/derpmgmt/disconnect", {"Container": "one", "Force": True})
    ask("inspect disconnected", "GET", f"{one}/json", pick="NetworkSettings.Networks NetworkSettings.Ports")
    ask("disconnect again", "POST", "/networks/derpmgmt/disconnect", {"Container": "one"})
    ask("connect", "POST", "/networks/derpmgmt/connect", {"Container": "one"})
    ask("connect again", "POST", "/networks/derpmgmt/connect", {"Container": "one"})
    ask("inspect connected", "GET", f"{one}/json", pick="NetworkSettings.Ports HostConfig.NetworkMode")
    ask("stop after changes", "POST", f"{one}/stop")


def ask_removal(talk: Talk) -> None:
    ask = talk.ask
    ask("stop before removal", "POST", "/containers/one/stop", query={"t": "2"})
    ask("remove", "DELETE", "/containers/one", query={"v": "1"})
    ask("remove again", "DELETE", "/containers/one")
    ask("inspect named volume after removal", "GET", "/volumes/v1", pick="Name")
    ask("delete volume", "DELETE", "/volumes/v1")
    ask("", "DELETE", "/volumes/v2")
    ask("delete network", "DELETE", "/networks/derpmgmt")
    ask("delete missing network", "DELETE", "/networks/derpmgmt")
    ask("delete last tag", "DELETE", f"/images/{TAG}")
