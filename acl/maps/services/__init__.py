"""What is done with maps: making versions, handing them out, live URLs, telling customers."""

from acl.maps.services.downloads import (
    COPIED,
    HAND_OUT_RATE,
    PARTIAL,
    RENEW_RATE,
    ChangedMeanwhile,
    DownloadRefused,
    MapCode,
    MapFile,
    check_download,
    hand_out_map,
    renew_map,
)
from acl.maps.services.erasure import closing_left, destroy_maps
from acl.maps.services.known_relays import known_relays
from acl.maps.services.live_urls import (
    clean_copies,
    create_live_url,
    live_address,
    publish_live_urls,
    read_copy,
    record_fetches,
    reveal_live_url,
    revoke_live_url,
)
from acl.maps.services.map_news import PasteNote, describe_paste, due_news, due_reminders, remind, tell_change
from acl.maps.services.map_panel import describe_live, describe_map, describe_version
from acl.maps.services.netcheck import NETCHECK_RATE, NoneOfYours, keep_netcheck
from acl.maps.services.versions import (
    LAPSED,
    NO_RELAY,
    NOT_ENTITLED,
    REGION_CHANGED,
    RELAYS_CHANGED,
    RENEWED,
    RegionIdRefused,
    active_config,
    change_region_id,
    due_lapses,
    due_rentals,
    mapped_relays,
    record_event,
    record_lapse,
    refresh_map,
)
