"""What is done to accounts: people, what they are told, closing."""

from accounts.services.activity import acting, log_line, log_lines, log_operation
from accounts.services.branding import change_brand
from accounts.services.closing import (
    OWN_WISH,
    ClosingRefused,
    close_account,
    closing_left,
    closing_losses,
    closing_reasons,
    finish_closing,
    hash_address,
    search_people,
    shorten_ip,
    sweep_closing,
)
from accounts.services.letters import write_to
from accounts.services.notices import (
    Message,
    NoticeRefused,
    drop_notices,
    notify,
    notify_all,
    send_again,
    take_back_notices,
    why_not_again,
)
from accounts.services.people import (
    SECOND_FACTORS,
    AccountExists,
    NotAllowed,
    ask_right_over,
    ban_user,
    change_user,
    create_user,
    end_oldest_sessions,
    end_sessions,
    enrol_second_factor,
    has_second_factor,
    insert_user,
    looks_like_staff,
    reset_second_factor,
    suggest_username,
    unban_user,
    use_up_code,
    with_factor,
)
from accounts.services.put_off import try_now
