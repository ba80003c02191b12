"""What the web server loads."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "derpmgmt.settings")
pages = get_wsgi_application()

from acl.devices.admission import AdmissionApplication  # noqa: E402 — it needs the models

application = AdmissionApplication(pages)
