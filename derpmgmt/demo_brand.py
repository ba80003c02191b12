"""Whose panel the demo is: an operator that there is not, with everything that one may say of themselves. The pictures are drawn here."""

import math
import struct
import zlib
from collections.abc import Callable

import qrcode

from accounts.brand.models import ONLY_ROW, BrandPicture, BrandSettings
from accounts.brand.pictures import LIMITS, keep_picture, read_picture
from accounts.services import change_brand

ACCENT = (14, 116, 110)
WHITE, CLEAR = (255, 255, 255, 255), (0, 0, 0, 0)
WECHAT = "queqiao-demo"
Pixel = tuple[int, int, int, int]

TERMS = """\
这是演示站点的示例条款。“鹊桥中继”并不存在，请勿付款。

# 一、我们提供什么

鹊桥中继为您的 Tailscale 或 Headscale 网络提供三台专属 DERP 中继。设备之间无法直连时，流量经由这些中继转发；能够直连时，流量不经过我们。

# 二、序列号与租期

- 序列号激活后租期立即开始，时长以激活页面显示为准。
- 续租的时长接在现有租期之后，不会丢失剩余时间。
- 每个序列号只能激活一次，激活后不予退换；因我们的原因无法提供服务的，退还剩余时长对应的费用。

# 三、合理使用

- 只有您批准的设备可以使用您的中继，请勿将配置转让或公开。
- 请勿用于违反中华人民共和国法律法规的用途，包括未经批准的跨境联网经营活动。
- 请勿对中继发起攻击，或以超出正常组网需要的方式占用带宽。

违反上述约定的，我们可以暂停服务，并告知您原因。

# 四、服务质量

我们定期检测每一台中继，结果显示在您的首页。中继出现故障时，我们会在另一台服务器上重建，您无需操作。计划内的维护会提前通知。

# 五、到期与注销

租期结束后中继停止转发。30 天内未续租的，账户将自动注销，注销前 7 天和 1 天会发邮件提醒。您也可以随时在账户页面自行注销。

# 六、条款变更

条款有重大变更时，我们会提前 15 天发邮件告知。您不同意变更的，可以在生效前注销账户。
"""

PRIVACY = """\
这是演示站点的示例隐私政策，说明本系统实际保存哪些数据。

# 一、我们保存什么

- 账户信息：邮箱、用户名、加密保存的密码和第二重验证信息。
- 租用记录：激活过的序列号、租期、续租和暂停的时间。
- 设备信息：设备公钥、您为设备起的名称、最近一次接入的时间和 IP 地址。
- 操作记录：登录、下载配置、修改设置的时间和 IP 地址。

# 二、我们看不到什么

您的设备之间使用 WireGuard 端到端加密。中继只转发加密后的数据包，我们无法查看内容，也不保存转发的数据。

# 三、用途

以上数据只用于提供服务、保障账户安全和处理故障。我们不出售数据，也不用于广告。

# 四、保存多久

账户注销后，邮箱、用户名、登录方式和设备信息会被删除，操作记录中的 IP 地址只保留网段。依法需要保留的记录按规定期限保存。

# 五、您的权利

您可以在“记录”页面查看并导出自己的数据，在账户页面修改资料或注销账户。如有疑问，请通过页脚的联系方式与我们联系。
"""

TERMS_EN = """\
These are the sample terms of a demo. There is no such company; please pay nothing.

# 1. What we provide

Your Tailscale or Headscale network gets three private DERP relays. Where devices cannot reach each other directly their traffic goes through these; where they can, it does not pass us.

# 2. Serial numbers and time

- The rental begins as soon as a serial number is redeemed; the page says how long it lasts.
- Time that you add is put on at the end, so that none is lost.
- Each serial number can be redeemed once and is not taken back afterwards. Where we cannot provide the service, we refund the time that is left.

# 3. Fair use

- Only devices that you approved may use your relays. Do not pass on or publish your map.
- Do not use the relays for anything that the laws of the People's Republic of China forbid.
- Do not attack the relays, or take more bandwidth than a network of devices needs.

Whoever breaks these rules may be suspended, and is told why.

# 4. Quality

We test each relay all the time, and your home page shows the results. A relay that fails is made anew on another server; you need do nothing. Maintenance is announced.

# 5. End and closing

At the end of the rental the relays stop. An account that is not renewed within 30 days is closed by itself; mails remind you 7 days and 1 day before. You can close it yourself at any time.

# 6. Changes

We announce important changes by mail 15 days before. If you do not agree, you can close your account until then.
"""

PRIVACY_EN = """\
This is the sample privacy policy of a demo. It says which data this system really keeps.

# 1. What we keep

- Your account: e-mail address, user name, password and second factors, encrypted.
- Your rental: the serial numbers you redeemed, renewals and pauses with their times.
- Your devices: their public keys, the names you gave them, when and from which IP address they last connected.
- What was done: sign-ins, downloads and changes of settings with their times and IP addresses.

# 2. What we cannot see

WireGuard encrypts everything from device to device. Relays pass on encrypted packets; we can neither read nor keep what is in them.

# 3. What for

These data serve to provide the service, to protect accounts and to mend what is broken. We sell none and use none for advertising.

# 4. For how long

When an account is closed, its e-mail address, user name, ways to sign in and devices are deleted, and of the IP addresses in the log only the network is kept. What the law wants us to keep, we keep for as long as it says.

# 5. Your rights

You can see and export your data on the page History, change them on the account pages, and close the account. Questions? The ways to reach us stand at the foot of each page.
"""


def seed_brand() -> None:
    """Set the demo's brand, unless one was set in the demo already, or taken away there."""
    if BrandSettings.objects.filter(pk=ONLY_ROW).exists():
        return
    change_brand(
        by=None,
        name="鹊桥中继",
        slogan="让每一台设备都能相见",
        slogan_en="Where all your devices meet",
        accent=f"#{bytes(ACCENT).hex()}",
        logo=_keep("logo", draw(112, _mark)),
        icon=_keep("icon", draw(64, _mark)),
        code=_keep("code", draw_code(f"鹊桥中继（演示）客服微信：{WECHAT}")),
        code_text="微信扫码联系客服",
        wechat=WECHAT,
        email="kefu@example.com",
        buy_url="https://shop.example.com/queqiao",
        icp="京ICP备00000000号-1",
        police="京公网安备00000000000000号",
        footer="© 2026 鹊桥网络（演示）",
        terms_text=TERMS,
        terms_text_en=TERMS_EN,
        privacy_text=PRIVACY,
        privacy_text_en=PRIVACY_EN,
    )


def _keep(slot: str, png: bytes) -> BrandPicture:
    return keep_picture(read_picture(png, LIMITS[slot]))


def draw(size: int, pixel: Callable[[float, float], Pixel]) -> bytes:
    """A PNG of `size` × `size` pixels, each the mean of nine points of `pixel(x, y)`, 0 to 1 both."""
    points = [(a / 6, b / 6) for a in (1, 3, 5) for b in (1, 3, 5)]
    rows = bytearray()
    for y in range(size):
        rows.append(0)
        for x in range(size):
            found = [pixel((x + a) / size, (y + b) / size) for a, b in points]
            alpha = sum(point[3] for point in found)
            rows += bytes(
                sum(point[part] * point[3] for point in found) // alpha if alpha else 0 for part in range(3)
            )
            rows.append(alpha // len(points))
    return _png(size, rows, colour=6)


def _mark(x: float, y: float) -> Pixel:
    """A bridge of an arc between two devices, a relay on top of it, on a square with round corners."""
    corner = 0.22
    beyond = math.hypot(max(abs(x - 0.5) - 0.5 + corner, 0), max(abs(y - 0.5) - 0.5 + corner, 0))
    if beyond > corner:
        return CLEAR
    is_arc = abs(math.hypot(x - 0.5, y - 0.7) - 0.32) < 0.035 and y < 0.7
    is_device = min(math.hypot(x - 0.18, y - 0.72), math.hypot(x - 0.82, y - 0.72)) < 0.085
    to_relay = math.hypot(x - 0.5, y - 0.38)
    is_relay = to_relay < 0.13
    is_gap = to_relay < 0.175
    return WHITE if is_device or is_relay or (is_arc and not is_gap) else (*ACCENT, 255)


def draw_code(text: str, scale: int = 6) -> bytes:
    """A PNG of the QR code of `text`, so many pixels a module."""
    code = qrcode.QRCode(border=2)
    code.add_data(text)
    code.make()
    modules = code.get_matrix()
    rows = bytearray()
    for line in modules:
        row = bytes(0 if is_dark else 255 for is_dark in line for _pixel in range(scale))
        rows += (b"\0" + row) * scale
    return _png(len(modules) * scale, rows, colour=0)


def _png(size: int, rows: bytes | bytearray, *, colour: int) -> bytes:
    """A PNG of 8 bits a sample; `colour` is its type (0 grey, 6 with alpha), `rows` begin with their filter each."""
    header = struct.pack(">IIBBBBB", size, size, 8, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )
