import os
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]="1"
import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import sync_playwright
from acl import services
from acl.models import *
from tests.acl.factories import *

@pytest.mark.django_db(transaction=True)
def test_shots(live_server):
    user = make_user("li@example.com", language="zh-hans")
    rental = make_rental(user)
    for slot, (c, z, e) in enumerate([("sh","上海","Shanghai"),("gz","广州","Guangzhou"),("bj","北京","Beijing")],1):
        make_relay(rental, slot=slot, server=make_server(c,z,e))
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    services.record_event(rental=rental, kind="downloaded", version=1, file_format="yaml", by=user, ip="198.51.100.7", browser="Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36")
    services.record_event(rental=rental, kind="refused", reason=services.DownloadRefused("unpaid").reason, by=user, ip="198.51.100.7")
    c = Client(); c.force_login(user); sid = c.cookies["sessionid"].value
    out = "/tmp/work/acl-go/shots"; os.makedirs(out, exist_ok=True)
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, w in (("desk",1280),("phone",390)):
            ctx = b.new_context(viewport={"width":w,"height":900}, locale="zh-CN", permissions=["clipboard-read","clipboard-write"])
            ctx.add_cookies([{"name":"sessionid","value":sid,"url":live_server.url}])
            page = ctx.new_page(); errs=[]
            page.on("console", lambda m: errs.append((m.location, m.text[:30])) if m.type in("error","warning") else None)
            page.on("pageerror", lambda e: errs.append(str(e)))
            for n, u in (("home","/home/"),("howto","/map/how-to/"),("history","/map/history/")):
                page.goto(live_server.url+u); page.wait_for_load_state("load"); 
                page.screenshot(path=f"{out}/{name}-{n}.png", full_page=True)
                print(name,n,"scrollW",page.evaluate("document.documentElement.scrollWidth"))
            page.goto(live_server.url+"/home/")
            with page.expect_response("**/copied/") as r:
                page.click("[data-copy='#map-text-hujson']")
            print("copy status", r.value.status, page.evaluate("navigator.clipboard.readText()")[:60])
            page.click("#map-tab-yaml"); page.wait_for_timeout(300)
            print("yaml visible", page.is_visible("#map-text-yaml"))
            print("tabs", errs); page.click("summary"); row = page.locator("#derp-map form").first
            row.locator("input[name=region_id]").fill("903"); row.locator("button").click(); page.wait_for_timeout(1500); page.screenshot(path=f"{out}/dbg.png", full_page=True); print("E", errs, page.url); page.wait_for_selector("#map-region-error", timeout=2000)
            page.screenshot(path=f"{out}/{name}-region.png", full_page=True)
            row = page.locator("#derp-map form").first
            page.locator("#derp-map form").first.locator("input[name=region_id]").fill("950" if name=="desk" else "901"); 
            with page.expect_response("**/map/regions/**"): page.locator("#derp-map form").first.locator("button").click()
            page.wait_for_timeout(300)
            print(page.inner_text("#derp-map .card-subtitle"), page.locator("#derp-map").count())
            page.evaluate("htmx.trigger(document.body,'map-changed')"); page.wait_for_timeout(500)
            n0=AclEvent.objects.filter(reason=services.COPIED).count()
            page.click("[data-copy='#map-text-hujson']"); page.wait_for_timeout(500)
            print("after swap reports", AclEvent.objects.filter(reason=services.COPIED).count()-n0, "errs", errs)
        b.close()
