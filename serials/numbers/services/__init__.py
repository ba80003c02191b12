"""What is done with serial numbers: made, revealed, recalled, redeemed."""

from serials.numbers.services.batches import (
    check_batch,
    code_hash,
    create_batch,
    expire_serials,
    mark_batch_paid,
    mark_batch_unpaid,
    recall_serial,
    reveal_batch,
    reveal_code,
    search_serials,
)
from serials.numbers.services.redeeming import (
    Preview,
    Stretch,
    check_serial,
    find_serial,
    look_up_serial,
    preview_redemption,
    redeem_serial,
    serial_of,
)
from serials.numbers.services.refusals import (
    AlreadyRedeemed,
    SerialExpired,
    SerialMistyped,
    SerialRecalled,
    SerialRefused,
    SerialUnknown,
    SerialUnpaid,
    SerialUsed,
)
