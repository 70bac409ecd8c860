use http::Method;
use serde_json::json;

use crate::client::Site;

#[tokio::test]
async fn a_new_server_is_well_and_ready() {
    let site = Site::start().await;
    for path in ["/utils/health-check/", "/utils/ready"] {
        assert_eq!(site.ask(Method::GET, path, None, None).await.expect(200), json!(true));
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_json() {
    let site = Site::start().await;
    let missing = site.ask(Method::GET, "/nothing", None, None).await;
    assert_eq!(missing.expect(404), json!({"detail": "Not Found", "code": "not_found"}));
    let wrong = site.ask(Method::DELETE, "/utils/health-check/", None, None).await;
    assert_eq!(wrong.refusal(405), "method_not_allowed");
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let site = Site::start().await;
    let document = site.ask(Method::GET, "/openapi.json", None, None).await.expect(200);
    assert!(document["paths"]["/api/v1/utils/health-check/"]["get"].is_object(), "{document}");
    let page = http::Request::builder().uri(format!("http://{}/docs/", site.address()));
    let page = site.send(page.body(Default::default()).unwrap()).await;
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("swagger-ui"));
}
