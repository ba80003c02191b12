"""What is done with devices: letting in, approving, revoking, and who was asked about."""

from acl.devices.services.admission_rows import (
    MOST_OF_RENTAL,
    forget_admissions,
    record_admissions,
    record_seen,
)
from acl.devices.services.devices import (
    PASTE_RATE,
    WINDOWS,
    AccountInactive,
    Added,
    DeviceRefused,
    LimitReached,
    NotWaiting,
    OpeningForbidden,
    add_devices,
    approve_device,
    close_window,
    gate_list,
    give_place,
    ignore_device,
    open_window,
    rename_device,
    replaceable_devices,
    revoke_device,
    set_open,
    set_verify_url,
)
from acl.devices.services.enrolment import Decision, due_trials, knock, settle_trials
from acl.devices.services.erasure import destroy_devices, devices_left
from acl.devices.services.forced_checking import check_again, due_checks
from acl.devices.services.foresight import foresee
from acl.devices.services.pace import Asked
from acl.devices.services.paste_preview import describe_paste_of
from acl.devices.services.places import device_limit, lets_all_in, may_open, placed, places_left, window_until
from acl.devices.services.verify_url import ask_sources
from acl.devices.services.waiting_devices import forget_waiting, tell_waiting
