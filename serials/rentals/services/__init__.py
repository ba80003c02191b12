"""What is done with rentals: their schedule, what happens to them, and how they close by themselves."""

from serials.rentals.services.life import (
    Pause,
    close_rental,
    current_pause,
    grant_days,
    pause_rental,
    renew_rental,
    resume_rental,
    sweep_rentals,
)
from serials.rentals.services.limits import (
    add_traffic,
    added_since,
    ask_staff,
    grant_renewals,
    record_use,
    renewed_when_over,
    set_limits,
    write_limits,
)
from serials.rentals.services.refusals import (
    AccountBarred,
    AccountClosed,
    NothingToPause,
    NothingToRenew,
    NotLater,
    RentalClosed,
    RentalRefused,
    TooFar,
)
from serials.rentals.services.spans import (
    PLAN_AGAIN,
    Standing,
    Terms,
    bound_servers,
    bound_servers_of,
    credit_waiting_time,
    current_span,
    is_paid,
    lock_rental,
    open_spans,
    read_schedule,
    read_standing,
    record_plan,
    request_plan,
    rules,
    write_schedule,
)
